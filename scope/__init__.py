"""Jobs, the tokens that are theirs alone, revocation, and the seals that end them (specs/http.md)."""
