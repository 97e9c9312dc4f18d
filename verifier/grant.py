"""What a job was granted, and the token that carries it (specs/grant.md, specs/token.md).

The grant is no bearer credential: it is what a bundle carries. The token names it by digest and expires in minutes.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from verifier.encoding import MAX_INT, Count, Digest, Glob, Id, Name, SafeText, Time, Url, canonical, digest, read
from verifier.refused import Refused

MAX_GRANT = 1 << 16
MAX_DEPTH = 4
# `<kind>:<server>/<name>`; a resource's name may be a glob.
_SERVER = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
ToolName = Annotated[
    str,
    Meta(
        pattern=rf"^((mcp|local|prompt):{_SERVER}/[A-Za-z0-9_.:/-]{{1,128}}|resource:{_SERVER}/[A-Za-z0-9_.:/*-]{{1,128}})\Z"
    ),
]

Claim = Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT)] | bool
# How a token is bound to its holder, the weakest first.
BINDINGS = ("none", "dpop", "mtls")
Binding = Literal["none", "dpop", "mtls"]
# What a purse divides among lanes and child jobs; time passes for all of them alike.
DIVIDED = ("calls", "cost_nano_usd", "tokens")
LIMITS = (*DIVIDED, "wall_seconds")


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The purse of a root job, or a lane's share of it; absent is no limit."""

    calls: Count | None = None
    cost_nano_usd: Count | None = None
    tokens: Count | None = None
    wall_seconds: Count | None = None


class Scope(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Everything that a token may do; its digest is the token's `scope_hash`. Lists are sorted sets.

    `user` is a pseudonym, `claims` what an identity provider's verified token said of that user; `act` is the agent
    that delegated to another one; `depth` counts delegations from the root job.
    """

    iss: Url
    job: Id
    job_type: SafeText
    environment: SafeText
    agent: SafeText
    client: SafeText
    user: SafeText | None = None
    claims: Annotated[dict[Name, Claim], Meta(min_length=1, max_length=64)] | None = None
    act: SafeText | None = None
    audience: Url
    binding: Binding
    policy: Digest
    manifests: dict[Name, Digest]
    tools: Annotated[list[ToolName], Meta(max_length=2000)]
    models: Annotated[list[Glob], Meta(max_length=256)]
    limits: Budget
    depth: Annotated[int, Meta(ge=0, le=MAX_DEPTH)]
    client_counter: Literal["required"] | None = None

    def hash(self) -> str:
        """Compute `scope_hash`: the digest of the scope's canonical bytes."""
        return digest(canonical(self))


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A scope, granted from `issued_at` to `expires`; `opened` is when the job opened.

    `parent` is the grant that it was narrowed from: of this job, or of the job that this one was delegated by.
    """

    opened: Time
    issued_at: Time
    expires: Time
    parent: Digest | None = None
    scope: Scope

    @classmethod
    def parse(cls, payload: bytes) -> "Grant":
        """Read a grant from canonical bytes. Raises `Refused`: the reading codes, bad-grant."""
        grant = read(payload, cls, limit=MAX_GRANT)
        scope = grant.scope
        if not grant.opened <= grant.issued_at < grant.expires:
            raise Refused("bad-grant", "a grant begins before it ends, and not before its job", field="expires")
        for name, values in (("tools", scope.tools), ("models", scope.models)):
            if values != sorted(set(values)):
                raise Refused("bad-grant", f"{name} are sorted, none twice", field=name)
        if {server_of(tool) for tool in scope.tools} - set(scope.manifests):
            raise Refused("bad-grant", "a tool of a server whose manifest the grant does not name", field="manifests")
        if scope.claims is not None and scope.user is None:
            raise Refused("bad-grant", "claims of a user whom the grant does not name", field="claims")
        if grant.parent is None and (scope.depth > 0 or scope.act is not None):
            raise Refused("bad-grant", "a delegated grant names the grant that it was narrowed from", field="parent")
        return grant


class Confirmation(Struct, frozen=True, kw_only=True):
    """The key that a token is bound to, by its thumbprint (RFC 9449 §6.1, RFC 7638)."""

    jkt: str


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims of a job-scoped token (CST): an RFC 9068 access token; times in seconds as JWT asks."""

    iss: str
    sub: str
    aud: str
    client_id: str
    iat: int
    nbf: int
    exp: int
    jti: Id
    txn: Id
    policy_hash: Digest
    scope_hash: Digest
    grant: Digest
    authorization_details: list[dict[str, Any]]
    cnf: Confirmation | None = None

    def fits(self, grant: Grant) -> None:
        """Check that a token says what its grant says. Raises `Refused`: wrong-policy, wrong-scope or wrong-grant."""
        scope = grant.scope
        if self.policy_hash != scope.policy:
            raise Refused("wrong-policy", "the token is pinned to another policy than its grant")
        if self.scope_hash != scope.hash():
            raise Refused("wrong-scope", "the token's scope_hash is not its grant's")
        said = (self.iss, self.sub, self.client_id, self.txn, self.aud)
        if said != (scope.iss, scope.agent, scope.client, scope.job, scope.audience):
            raise Refused("wrong-grant", "issuer, agent, client, job or audience are not the grant's")
        if scope.binding == "dpop" and self.cnf is None:
            raise Refused("wrong-grant", "the grant is for bound tokens, and this one is not")
        if self.exp * 1_000_000 > grant.expires or self.nbf * 1_000_000 < grant.issued_at // 1_000_000 * 1_000_000:
            raise Refused("wrong-grant", "the token lives longer than its grant")


# The type of authorization details for each kind of target, and the member that lists names.
DETAILS = {
    "mcp": ("tally_mcp", "tools"), "local": ("tally_local", "tools"),
    "resource": ("tally_resource", "resources"), "prompt": ("tally_prompt", "prompts"),
}  # fmt: skip


def server_of(tool: str) -> str:
    """Name the server of an entry of `tools`."""
    return tool.partition(":")[2].partition("/")[0]


def authorization_details(scope: Scope) -> list[dict[str, Any]]:
    """Describe a scope as RFC 9396 asks: one entry a server and kind, one for the models."""
    details: list[dict[str, Any]] = []
    for kind, (named, member) in DETAILS.items():
        servers = sorted({server_of(tool) for tool in scope.tools if tool.startswith(f"{kind}:")})
        for server in servers:
            prefix = f"{kind}:{server}/"
            names = [tool.removeprefix(prefix) for tool in scope.tools if tool.startswith(prefix)]
            details.append({"type": named, "server": server, member: names})
    return [*details, {"type": "tally_model", "models": scope.models}] if scope.models else details
