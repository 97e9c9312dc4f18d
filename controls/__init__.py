"""The registry: signed policies, MCP servers and their tool manifests, served by digest (specs/http.md)."""
