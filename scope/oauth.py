"""What an OAuth 2.1 client expects of an authorization server: forms in, JSON out (specs/http.md §2).

The client proves who it is with its own JWT, as an assertion in the form (RFC 7523) or as Bearer. Errors have OAuth's
shape (RFC 6749 §5.2) and our public code beside it.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from litestar import Controller, Request, Response, post
from litestar.params import RawBody
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from scope import mint
from scope.authority import OVERSEERS, Authority, given
from scope.client import ACCESS_TOKEN, ASSERTION, TOKEN_EXCHANGE, IssuedToken
from scope.narrow import read_details
from service.clients import Caller, Clients
from service.described import form_body
from service.problems import retry_after
from verifier.refused import Refused

MAX_FIELDS = 16
TOKEN_FIELDS = (
    "grant_type", "job", "ttl", "resource", "audience", "subject_token", "subject_token_type", "requested_token_type",
    "authorization_details",
)  # fmt: skip
MAX_DIGITS = 6
FORM = "application/x-www-form-urlencoded"
PRIVATE = {"Cache-Control": "no-store"}
_server = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}").fullmatch
# Our codes by OAuth's error; what is not named here is invalid_request.
ERRORS = {
    "unauthenticated": "invalid_client",
    "forbidden": "unauthorized_client",
    "unsupported-grant-type": "unsupported_grant_type",
    "unsupported-response-type": "unsupported_response_type",
    "bad-token": "invalid_grant",
    "revoked": "invalid_grant",
    "unknown-job": "invalid_grant",
    "job-not-open": "invalid_grant",
    "too-many-tokens": "invalid_grant",
    "too-many-grants": "invalid_grant",
    "scope-too-wide": "invalid_scope",
    "wrong-audience": "invalid_target",
    "ttl-too-long": "invalid_scope",
    "unsupported": "invalid_scope",
    "dpop-required": "invalid_dpop_proof",
    "bad-dpop-proof": "invalid_dpop_proof",
    "use-dpop-nonce": "use_dpop_nonce",
    "too-many-proofs": "temporarily_unavailable",
    "too-many-failures": "temporarily_unavailable",
    "too-many-requests": "temporarily_unavailable",
    "clock-stepped": "temporarily_unavailable",
    "database-restored": "temporarily_unavailable",
}
STATUSES = {
    "unauthenticated": 401,
    "too-many-proofs": 503,
    "too-many-failures": 429,
    "too-many-requests": 429,
    "clock-stepped": 503,
    "database-restored": 503,
}

Ask = Request[Any, Any, Any]


class OAuthError(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 6749 §5.2, with our `code` beside OAuth's `error`."""

    error: str
    error_description: str
    code: str
    hint: str = ""
    field: str = ""


def refused(request: Ask, error: Refused) -> Response[OAuthError]:
    """Answer a refusal in OAuth's shape."""
    status = STATUSES.get(error.code, 400)
    name = ERRORS.get(error.code, "invalid_request")
    body = OAuthError(error=name, error_description=error.why, code=error.code, hint=error.hint, field=error.field)
    challenge = {"WWW-Authenticate": "Bearer"} if error.code == "unauthenticated" else {}
    if error.code in {"use-dpop-nonce", "dpop-required"}:
        challenge = {"DPoP-Nonce": request.app.state.authority.proofs.nonce()}
    return Response(body, status_code=status, headers={**PRIVATE, **challenge, **retry_after(error.code)})


class OAuth(Controller):
    """Tokens: issued, exchanged, revoked, introspected."""

    tags = ("tokens",)
    exception_handlers = {Refused: refused}  # noqa: RUF012 - Litestar's own way to say it

    @post(
        "/token",
        status_code=200,
        summary="A token of one's own job",
        operation_class=form_body(*TOKEN_FIELDS),
    )
    async def token(self, request: Ask, body: RawBody) -> Response[IssuedToken]:
        """Issue a token: `client_credentials` with `job`, or a token exchange inside the job; `ttl` in seconds.

        An exchange with `authorization_details` gives a token for that part of what the subject token carries. A
        `DPoP` header binds the token to the key that signed it (RFC 9449).
        """
        authority, form, caller = await _enter(request, body)
        caller.require("orchestrator")
        for name in ("resource", "audience"):  # RFC 8707, RFC 8693 §2.1
            if not _of_gateway(form.get(name, authority.audience), authority.audience):
                raise Refused("wrong-audience", "tokens of this scope are for another gateway", field=name)
        if "scope" in form:
            hint = "Ask with authorization_details, in a token exchange."
            raise Refused("unsupported", "what a token carries is said by authorization_details", hint=hint)
        given = request.headers.getall("dpop", [])
        jkt = await authority.proofs.admit(given, "POST", "/token") if given else None
        nonce = {"DPoP-Nonce": authority.proofs.nonce()} if given else {}
        return Response(await _issue(authority, caller, form, jkt), headers={**PRIVATE, **nonce})

    @post("/revoke", status_code=200, summary="Revoke a token (RFC 7009)", operation_class=form_body("token"))
    async def revoke(self, request: Ask, body: RawBody) -> Response[None]:
        """Revoke one token of one's own; a text that is no living token is no error."""
        authority, form, caller = await _enter(request, body)
        caller.require("orchestrator")
        await mint.withdraw(authority, caller, _field(form, "token"))
        return Response(None, headers=PRIVATE)

    @post("/introspect", status_code=200, summary="Is a token live? (RFC 7662)", operation_class=form_body("token"))
    async def introspect(self, request: Ask, body: RawBody) -> Response[dict[str, Any]]:
        """Say whether a token is live and what it says."""
        authority, form, caller = await _enter(request, body)
        caller.require("orchestrator", *OVERSEERS)
        return Response(await mint.introspect(authority, caller, _field(form, "token")), headers=PRIVATE)


async def _issue(authority: Authority, caller: Caller, form: Mapping[str, str], jkt: str | None) -> IssuedToken:
    ttl = _seconds(form["ttl"]) if "ttl" in form else None
    kind = _field(form, "grant_type")
    if kind == "client_credentials" and "authorization_details" not in form:
        return await mint.mint(authority, caller, _job(form, caller), ttl, jkt=jkt)
    if kind == "client_credentials":
        raise Refused(
            "unsupported", "a job's first token carries its whole scope", hint="Exchange it for a narrower one."
        )
    if kind != TOKEN_EXCHANGE:
        raise Refused("unsupported-grant-type", "client_credentials or token exchange", field="grant_type")
    for name in ("subject_token_type", "requested_token_type"):
        if form.get(name, ACCESS_TOKEN) != ACCESS_TOKEN:
            raise Refused("bad-request", "only access tokens are exchanged, for access tokens", field=name)
    if "actor_token" in form:
        hint = "Whoever acts opens a child job, with the subject token as parent_token."
        raise Refused("unsupported", "a token is exchanged for whoever has it", hint=hint, field="actor_token")
    details = read_details(form["authorization_details"]) if "authorization_details" in form else None
    job = _job(form, caller) if "job" in form or caller.job else None
    return await mint.exchange(authority, caller, _field(form, "subject_token"), ttl, details, jkt=jkt, job=job)


async def _enter(request: Ask, body: bytes) -> tuple[Authority, dict[str, str], Caller]:
    """Read the form and authenticate its client, by one way and not two (RFC 6749 §2.3).

    The authority is no dependency of these routes: the framework's way to it takes a tenth of a token's time.
    """
    authority = given(request.app.state)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refused("wrong-media-type", f"this address reads {FORM}")
    form = _read(body)
    header = request.headers.get("authorization", "")
    if "client_assertion" in form:
        if header or form.get("client_assertion_type") != ASSERTION:
            raise Refused("bad-request", "one way to authenticate, and an assertion of type jwt-bearer")
        header = f"Bearer {form['client_assertion']}"
    clients: Clients = request.app.state.clients
    caller = await clients.admit(header, request.client.host if request.client else "")
    if form.get("client_id", caller.client) != caller.client:
        raise Refused("bad-request", "client_id is not the client that authenticated", field="client_id")
    return authority, form, caller


def _job(form: Mapping[str, str], caller: Caller) -> str:
    """Name the job whose token is asked for: a field, or a claim of the client's own JWT, never two that differ."""
    if "job" not in form and caller.job:
        return caller.job
    if caller.job not in {None, form.get("job")}:
        raise Refused("bad-request", "the form and the client's own token name different jobs", field="job")
    return _field(form, "job")


def _of_gateway(resource: str, audience: str) -> bool:
    """Tell whether a resource (RFC 8707) is the gateway, or an MCP server behind it."""
    below = resource.removeprefix(f"{audience}/mcp/")
    return resource == audience or (below != resource and _server(below) is not None)


def _read(body: bytes) -> dict[str, str]:
    """Read a form; a parameter that stands twice is refused (RFC 6749 §3.1)."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Refused("bad-request", "the form cannot be read") from error
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Refused("bad-request", "a parameter stands twice")
    return form


def _field(form: Mapping[str, str], name: str) -> str:
    if not form.get(name):
        raise Refused("bad-request", f"{name} is missing", field=name)
    return form[name]


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text)):
        raise Refused("bad-value", "ttl is a whole number of seconds", field="ttl")
    return int(text)


ROUTES: list[ControllerRouterHandler] = [OAuth]
