"""What `scope` acts with: its names, its four keys, whom it trusts, its clock, its database, the policy registry.

Each key has one use. The gateway holds none of them, and `scope` none of the gateway's: neither can write the other's
half of a bundle.
"""

from collections.abc import Callable
from pathlib import Path

from litestar.datastructures import State
from msgspec import Struct, field
from sqlalchemy.ext.asyncio import AsyncEngine

from controls.client import ControlsClient
from scope.desk import Desk
from scope.feed import Feed
from scope.users import Users
from service import keystore
from service.dpop import Proofs
from service.problems import Log
from service.steady import Steady
from verifier.keys import Key, Trust
from verifier.refused import Refused
from verifier.signing import KeyPair

USES = ("grant", "seal", "token", "revocation")
SECOND = 1_000_000
OVERSEERS = ("gateway", "responder", "auditor")  # who may learn of anybody's job or token


class Keys(Struct, frozen=True):
    """One key pair a use."""

    grant: KeyPair
    seal: KeyPair
    token: KeyPair
    revocation: KeyPair

    @classmethod
    def load(cls, directory: Path) -> "Keys":
        """Read a directory's key files. Raises `Refused` when one is missing, open to others or for another use."""
        return cls(*(keystore.load(directory / f"{use}.key", use) for use in USES))

    def require(self, trust: Trust, owner: str, at: int) -> None:
        """Check that the key list names each as its owner's, for its use: else nobody would believe what they sign."""
        for use in USES:
            pair: KeyPair = getattr(self, use)
            signer(trust, pair.kid, use, owner, at)


class Reports(Struct, frozen=True):
    """When each gateway, as the client that it is, last reported to this process, which listens since `since`.

    Kept in memory: a gateway reports each second, and whether it still does is a question of now.
    """

    since: int
    last: dict[str, int] = field(default_factory=dict)


class Authority(Struct, frozen=True, kw_only=True):
    """Everything that an act needs; made once, in `app.py`. `audience` is the gateway that tokens are for;
    `retention` is how long sealed jobs are kept, in microseconds: None is for ever.
    """

    issuer: str
    audience: str
    keys: Keys
    trust: Trust
    key_list: bytes
    registry: ControlsClient
    engine: AsyncEngine
    clock: Steady
    random: Callable[[int], bytes]
    users: Users
    feed: Feed
    desk: Desk
    proofs: Proofs
    reports: Reports
    retention: int | None
    log: Log

    def gateway_key(self, kid: str, gateway: str, at: int) -> Key:
        """Find a gateway's key that is good at a time. Raises `Refused`."""
        return signer(self.trust, kid, "gateway", gateway, at)

    def token_keys(self) -> list[Key]:
        """List the keys that sign our tokens, those that have ended included, those that were revoked not."""
        ours = (key for key in self.trust.listed.keys if key.use == "token" and key.owner == self.issuer)
        return [key for key in ours if key.revoked_at is None]


def signer(trust: Trust, kid: str, use: str, owner: str, at: int) -> Key:
    """Find a key by name, for one use of one owner at a time. Raises `Refused`, unknown-signer when nobody lists it."""
    if kid not in trust.by_kid:
        raise Refused("unknown-signer", f"key {kid} is not in the key list", field="kid")
    return trust.signer(frozenset({kid}), use, owner, at)


def given(state: State) -> Authority:
    """Give a route what it acts with. Raises `Refused` database-restored."""
    state.memory.require()
    authority: Authority = state.authority
    return authority
