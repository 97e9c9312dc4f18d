"""What a job or a token carries, as `authorization_details` say it (RFC 9396)."""

from typing import Annotated

from msgspec import Meta

from scope.client.message import Request, ResourcePart, ToolPart
from verifier.encoding import Glob, Name


class Tools(Request, frozen=True, kw_only=True, tag="tally_mcp", tag_field="type"):
    """Tools of one MCP server, by their exact names (RFC 9396)."""

    server: Name
    tools: Annotated[list[ToolPart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"mcp:{self.server}/{each}" for each in self.tools]


class LocalTools(Request, frozen=True, kw_only=True, tag="tally_local", tag_field="type"):
    """Tools that the runtime runs itself, by their exact names."""

    server: Name
    tools: Annotated[list[ToolPart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"local:{self.server}/{each}" for each in self.tools]


class Resources(Request, frozen=True, kw_only=True, tag="tally_resource", tag_field="type"):
    """Resources of one MCP server, by globs over their URIs."""

    server: Name
    resources: Annotated[list[ResourcePart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"resource:{self.server}/{each}" for each in self.resources]


class Prompts(Request, frozen=True, kw_only=True, tag="tally_prompt", tag_field="type"):
    """Prompts of one MCP server, by their exact names."""

    server: Name
    prompts: Annotated[list[ToolPart], Meta(min_length=1, max_length=1000)]

    def names(self) -> list[str]:
        """Name each as a grant does."""
        return [f"prompt:{self.server}/{each}" for each in self.prompts]


class Models(Request, frozen=True, kw_only=True, tag="tally_model", tag_field="type"):
    """Models as `provider/pattern` (RFC 9396)."""

    models: Annotated[list[Glob], Meta(min_length=1, max_length=256)]


Detail = Tools | LocalTools | Resources | Prompts | Models
