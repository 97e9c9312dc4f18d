"""What OAuth clients look up: metadata, the keys that sign tokens, and no page to sign in (specs/token.md §5)."""

import base64
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.types import ControllerRouterHandler

from scope import store
from scope.authority import SECOND, Authority
from scope.client import TOKEN_EXCHANGE
from scope.oauth import refused
from service.dpop import ALGORITHMS
from service.engine import reading
from verifier.refused import Refused

Here = NamedDependency[Authority]
# A reader of these keys alone believes a revoked one so long, and may not know a new one so long.
MAX_AGE = 60  # seconds
LONGEST_LIFE = 3600 * SECOND  # of a token, under any policy


@get(
    "/authorize",
    status_code=400,
    tags=["tokens"],
    summary="Refuses: no person signs in here",
    exception_handlers={Refused: refused},
)
async def authorize() -> None:
    """Refuse, and redirect nobody: libraries want an address in the metadata, and there is no grant that uses it."""
    hint = "Use client_credentials at /token."
    raise Refused("unsupported-response-type", "this server knows no authorization endpoint's grant", hint=hint)


@get("/.well-known/oauth-authorization-server", tags=["tokens"], summary="Metadata (RFC 8414)")
async def metadata(authority: Here) -> dict[str, Any]:
    """Tell an OAuth client what it needs to know."""
    issuer = authority.issuer
    proof = {"auth_methods_supported": ["private_key_jwt"], "auth_signing_alg_values_supported": ["EdDSA"]}
    endpoints = ("token", "revocation", "introspection")
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "revocation_endpoint": f"{issuer}/revoke",
        "introspection_endpoint": f"{issuer}/introspect",
        "jwks_uri": f"{issuer}/jwks.json",
        "response_types_supported": [],
        "dpop_signing_alg_values_supported": [*ALGORITHMS],
        "grant_types_supported": ["client_credentials", TOKEN_EXCHANGE],
        **{f"{endpoint}_endpoint_{name}": value for endpoint in endpoints for name, value in proof.items()},
        "authorization_details_types_supported": [
            "tally_local",
            "tally_mcp",
            "tally_model",
            "tally_prompt",
            "tally_resource",
        ],
    }


@get("/jwks.json", tags=["tokens"], summary="The keys that sign tokens (RFC 7517)")
async def jwks(authority: Here) -> Response[dict[str, list[dict[str, str]]]]:
    """List the token keys of the signed key list, in the form that OAuth libraries read.

    Revoked ones are left out, and those that ended so long ago that no token of theirs lives: a reader of this form
    knows of no end.
    """
    oldest = authority.clock() - LONGEST_LIFE
    async with reading(authority.engine) as db:
        revoked = await store.revoked_keys(db)
    public = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}
    keys = [key for key in authority.token_keys() if key.kid not in revoked and key.not_after > oldest]
    found = {"keys": [{**public, "kid": key.kid, "x": _b64url(key.pair().raw()[0])} for key in keys]}
    return Response(found, headers={"Cache-Control": f"public, max-age={MAX_AGE}"})


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


ROUTES: list[ControllerRouterHandler] = [authorize, metadata, jwks]
