"""Who calls: a token checked once against its grant and policy, then known by its hash until it expires.

Everything that a call is held against hangs on the session, so that a second call of the same token costs a lookup.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from hmac import compare_digest
from typing import Protocol, TypeVar

from msgspec import Struct

from receipts.arguments import Arguments
from receipts.labelling import Handling, handling
from receipts.tokens import OF_PROOF, BadToken, Credential, check_time, kid_of, read_token
from service.chains import with_ancestors
from service.dpop import Proofs
from verifier.admission import subject_of
from verifier.chain import Terms, terms
from verifier.compiled import Decide, compile_policy
from verifier.decision import Subject
from verifier.delegation import widened
from verifier.documents import Opened, addressed, open_grant
from verifier.grant import Grant, Scope, Token
from verifier.keys import Trust
from verifier.manifest import Manifest
from verifier.policy import Chain, Policy, check_enforceable
from verifier.prices import Prices
from verifier.refused import Refused
from verifier.revocation import Name, named

MAX_SESSIONS = 4096
MAX_SERVERS = 512
MAX_POLICIES = 512
MOST_ABOVE = 512  # a grant of each of five jobs, each narrowed at most 64 times, are fewer

K = TypeVar("K")
V = TypeVar("V")


class Documents(Protocol):
    """Signed documents by digest, from wherever they are kept."""

    async def grant(self, digest: str) -> bytes:
        """Return a grant's envelope."""

    async def policy(self, digest: str, at: int) -> Opened[Policy]:
        """Return a policy with both signatures, in force at a time."""

    async def manifest(self, digest: str, at: int) -> Opened[Manifest]:
        """Return an approved manifest."""

    async def prices(self, digest: str, at: int) -> Opened[Prices]:
        """Return a price table."""


class Server(Struct, frozen=True):
    """An MCP server as its approved manifest describes it; `compiled` fills as tools are used."""

    manifest: Manifest
    digest: str
    compiled: dict[str, Arguments]

    def arguments(self, name: str, schema: str) -> Arguments:
        """Return what is named's compiled schema. Raises `Refused` bad-schema."""
        compiled = self.compiled.get(name)
        if compiled is None:
            compiled = self.compiled[name] = Arguments(name, schema)
        return compiled


class Compiled(Struct, frozen=True):
    """A policy and its ancestors, what they come to together, and the function that decides by them."""

    chain: Chain
    terms: Terms
    handling: Handling
    prices: Prices | None
    decide: Decide


class Session(Struct, frozen=True):
    """A token with what it stands for; `names` are all by which it can be revoked (`names_of`)."""

    token: Token
    grant: Grant
    names: dict[Name, int]
    chain: Chain
    terms: Terms
    handling: Handling
    prices: Prices | None
    decide: Decide
    subject: Subject

    @property
    def scope(self) -> Scope:
        """What the token may do."""
        return self.grant.scope


class Sessions:
    """The tokens that this gateway has seen and checked."""

    def __init__(
        self,
        documents: Documents,
        trust: Trust,
        issuer: str,
        audience: str,
        clock: Callable[[], int],
        *,
        proofs: Proofs,
    ) -> None:
        """Start empty; `issuer` is scope's URL, `audience` the gateway's own, `proofs` those that came here."""
        self._proofs = proofs
        self._documents = documents
        self._trust = trust
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self._servers: OrderedDict[str, Server] = OrderedDict()
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()

    async def open(self, credential: Credential) -> Session:
        """Open the session of a call's token; its expiry, and the proof of who holds it, are checked each time.

        Raises `BadToken` when the token is at fault, `Refused` when its documents cannot be had.
        """
        scheme, text = credential.token()
        key = sha256(text.encode("latin-1")).digest()
        session = self._known.get(key)
        if session is None:
            session = await self._check(text)
            _remember(self._known, key, session, MAX_SESSIONS)
        try:
            check_time(session.token, self._clock())
        except BadToken:
            self._known.pop(key, None)
            raise
        if session.token.cnf is not None or scheme != "bearer":
            self._check_holder(session.token, scheme, text, credential)
        return session

    def _check_holder(self, token: Token, scheme: str, text: str, credential: Credential) -> None:
        """Check that whoever calls has the key that the token is bound to (RFC 9449 §7.1).

        Raises `BadToken`: bad-token, dpop-required, bad-dpop-proof, use-dpop-nonce.
        """
        if token.cnf is None:
            raise BadToken("bad-token", "this token is bound to no key", hint="Send Authorization: Bearer <token>.")
        if scheme != "dpop":
            hint = "Send Authorization: DPoP <token>, and a proof."
            raise BadToken("dpop-required", "this token is bound to a key", hint=hint, field="dpop")
        try:
            jkt = self._proofs.check(credential.proofs, credential.method, credential.path, text)
        except Refused as refused:
            if refused.code not in OF_PROOF:
                raise
            bad = BadToken(refused.code, refused.why, hint=refused.hint, field=refused.field)
            bad.nonce = self._proofs.nonce()
            raise bad from refused
        if not compare_digest(jkt, token.cnf.jkt):
            raise BadToken("bad-dpop-proof", "the proof is signed with another key than the token's", field="dpop")

    async def server(self, session: Session, name: str) -> Server:
        """Find a server under the manifest that the grant pins. Raises `Refused`: unknown-server, wrong-manifest."""
        digest = session.scope.manifests.get(name)
        if digest is None:
            raise Refused("unknown-server", "the grant names no such server", field="server")
        server = self._servers.get(digest)
        if server is None:
            opened = await self._documents.manifest(digest, session.grant.issued_at)
            server = Server(addressed(opened, digest).value, digest, {})
            _remember(self._servers, digest, server, MAX_SERVERS)
        if server.manifest.server != name:
            raise Refused("wrong-manifest", "the grant pins the manifest of another server under this name")
        return server

    async def _check(self, text: str) -> Session:
        token = read_token(text, self._trust, issuer=self._issuer, audience=self._audience, now=self._clock())
        check_time(token, self._clock())
        opened = addressed(open_grant(self._trust, await self._documents.grant(token.grant)), token.grant)
        grant = opened.value
        try:
            token.fits(grant)
        except Refused as refused:
            raise BadToken(refused.code, refused.why) from refused
        _enforceable(grant)
        grants, found = (opened, *await self._above(grant)), await self._policy(grant)
        if token.exp - token.iat > found.terms.token_constraints.cst_max_ttl_seconds:
            raise BadToken("bad-token", "the token lives longer than its policy allows", field="exp")
        names, subject = names_of(token, kid_of(text), grants, found.chain), subject_of(grant.scope)
        return Session(
            token, grant, names, found.chain, found.terms, found.handling, found.prices, found.decide, subject
        )

    async def _above(self, grant: Grant) -> tuple[Opened[Grant], ...]:
        """Open the grants that one was narrowed from, each inside the next: what ends one of them ends it.

        Raises `BadToken`: wrong-delegation for a grant that goes beyond its parent.
        """
        found: list[Opened[Grant]] = []
        below = grant
        while below.parent is not None:
            raw = await self._documents.grant(below.parent)
            above = addressed(open_grant(self._trust, raw), below.parent)
            for field, why in widened(below, above.value):
                raise BadToken("wrong-delegation", f"the grant {why}", field=field)
            found.append(above)
            if len(found) > MOST_ABOVE:
                raise BadToken("wrong-delegation", "the grant was narrowed too often", field="parent")
            below = above.value
        return tuple(found)

    async def _policy(self, grant: Grant) -> Compiled:
        """Open a grant's policy and its ancestors, and compile them once for all their sessions.

        Raises `Refused`: unsupported, bad-policy for too many ancestors.
        """

        async def fetch(digest: str) -> Policy:
            return addressed(await self._documents.policy(digest, grant.opened), digest).value

        chain = await with_ancestors(await fetch(grant.scope.policy), fetch)
        known = self._compiled.get(grant.scope.policy)
        if known is None:
            for policy in chain:
                check_enforceable(policy)
            together = terms(chain)
            prices = await self._prices(together.prices, grant.issued_at)
            known = Compiled(chain, together, handling(chain), prices, compile_policy(chain))
            _remember(self._compiled, grant.scope.policy, known, MAX_POLICIES)
        return known

    async def _prices(self, digest: str | None, at: int) -> Prices | None:
        return None if digest is None else addressed(await self._documents.prices(digest, at), digest).value


def names_of(token: Token, kid: str, grants: Iterable[Opened[Grant]], chain: Chain) -> dict[Name, int]:
    """Name all that ends a token: itself, its key, its grant and each above, whoever signed them, and its policies.

    Of each since when it was in use, in microseconds: what is revoked until a time ends what was in use before it.
    """
    names: dict[Name, int] = {("jti", token.jti): 0, ("key", kid): 0}
    policies = [policy.parent for policy in chain if policy.parent is not None]
    for each in grants:
        for name in named(each.value.scope, each.kids, policies):
            names[name] = min(names.get(name, each.value.opened), each.value.opened)
    return names


def _enforceable(grant: Grant) -> None:
    """Refuse by name what this gateway could accept and would not enforce."""
    scope = grant.scope
    for unbuilt, name in (
        (scope.binding == "mtls", "binding"),
        (scope.client_counter is not None, "client_counter"),
    ):
        if unbuilt:
            raise Refused("unsupported", f"this gateway does not enforce a grant's {name}", field=name)


def _remember(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    known[key] = value
    if len(known) > most:
        known.popitem(last=False)
