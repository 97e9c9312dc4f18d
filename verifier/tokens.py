"""Step 8: the tokens of one lane, each as scope's seal names it, each call in its token's time."""

from msgspec import Struct

from verifier.evidence import Evidence
from verifier.findings import LaneFindings
from verifier.grant import Grant
from verifier.leaf import Begin, Deny, Hold, Token
from verifier.seal import SealedLane

SECOND = 1_000_000
MAX_TOKENS = 100_000


class TokenUse(Struct, frozen=True):
    """A token as a lane may use it, times in microseconds; `earliest` allows for the skew.

    `counted`: its grant requires that the client counts its calls. `kid`: the key that signed it, where the seal says.
    """

    grant: Grant
    grant_digest: str
    iat: int
    exp: int
    earliest: int
    counted: bool
    kid: str | None = None


class Tokens:
    """What a lane has recorded of its tokens."""

    def __init__(self, evidence: Evidence, sealed: SealedLane | None, found: LaneFindings) -> None:
        """Start with none."""
        self._grants = evidence.grants
        self._sealed = None if sealed is None else {token.jti: token for token in sealed.tokens}
        self._skew = evidence.trust.pin.max_skew_seconds * SECOND
        self._found = found
        self._known: dict[str, TokenUse] = {}
        self._unseen = set(self._sealed or ())  # tokens that scope saw used here, and no receipt has recorded
        self._hashes: dict[str, str] = {}  # of the grants' scopes

    def record(self, leaf: Token) -> None:
        """Take in a token's first use; what is wrong with it is found, and the token stays unknown."""
        before, kid = len(self._found.report.findings) + self._found.report.unlisted, None
        self._unseen.discard(leaf.jti)
        grant = self._grants.get(leaf.grant)
        if len(self._known) >= MAX_TOKENS:
            self._add("too-large", leaf, f"more than {MAX_TOKENS} tokens in one lane", "jti")
        if self._sealed is not None:
            sealed = self._sealed.get(leaf.jti)
            if sealed is None or (sealed.grant, sealed.iat, sealed.exp) != (leaf.grant, leaf.iat, leaf.exp):
                why = "scope's seal does not name this token with this grant and these times"
                self._add("unknown-token", leaf, why, "jti")
            else:
                kid = sealed.kid
        if leaf.jti in self._known:
            self._add("wrong-grant", leaf, "the token stands twice", "jti")
        if grant is None:
            self._add("missing-document", leaf, "the token names a grant that is not in the bundle", "grant")
            return
        if leaf.grant not in self._hashes:
            self._hashes[leaf.grant] = grant.scope.hash()  # once for all tokens of the grant
        if leaf.scope_hash != self._hashes[leaf.grant]:
            self._add("wrong-scope", leaf, "the token's scope hash is not its grant's", "scope_hash")
        if leaf.exp * SECOND > grant.expires or leaf.iat * SECOND + SECOND < grant.issued_at:
            self._add("wrong-grant", leaf, "the token begins before or outlives its grant", "exp")
        if before == len(self._found.report.findings) + self._found.report.unlisted:
            iat, exp = leaf.iat * SECOND, leaf.exp * SECOND
            counted = grant.scope.client_counter is not None
            self._known[leaf.jti] = TokenUse(grant, leaf.grant, iat, exp, iat - self._skew, counted, kid)

    def use(self, leaf: Begin | Deny | Hold) -> TokenUse | None:
        """Find the token of a call and hold the call against its time."""
        token = self._known.get(leaf.jti)
        if token is None:
            self._add("unknown-token", leaf, "a call by a token that this lane has not recorded", "jti")
        elif not token.earliest <= leaf.time <= token.exp:
            self._add("outside-token", leaf, "the call lies outside its token's time", "time")
        return token

    def finish(self) -> None:
        """Report the tokens that the seal names and the lane has not recorded: a gateway reports none before it has."""
        for jti in sorted(self._unseen):
            self._found.add(
                "unknown-token", 8, f"the seal names token {jti}, which the lane has not recorded", place="tokens"
            )

    def _add(self, code: str, leaf: Token | Begin | Deny | Hold, why: str, place: str) -> None:
        self._found.add(code, 8, why, leaf.seq, place)
