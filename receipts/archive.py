"""The signed documents that calls and bundles need: fetched from their services once, then kept beside the receipts.

A job's bundle must be there when the registry has long forgotten a policy. What is kept was opened with our own trust
before, and is opened again each time.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from controls.client import ControlsClient
from receipts import store
from receipts.ledger import Ledger
from scope.client import ScopeClient
from service.engine import reading_elsewhere
from verifier.documents import Opened, addressed, open_grant, open_manifest, open_policy, open_prices
from verifier.grant import Grant
from verifier.keys import Trust
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.refused import Refused

T = TypeVar("T")


class Archive:
    """Documents by digest, opened or as the envelope that was signed. Every method raises `Refused`."""

    def __init__(
        self, engine: AsyncEngine, ledger: Ledger, trust: Trust, scope: ScopeClient, controls: ControlsClient
    ) -> None:
        """Take the parts."""
        self._reader = reading_elsewhere(engine)
        self._ledger = ledger
        self._trust = trust
        self._scope = scope
        self._controls = controls

    async def grant(self, digest: str) -> bytes:
        """Return a grant's envelope."""
        return (await self._grant(digest))[1]

    async def opened_grant(self, digest: str) -> Opened[Grant]:
        """Return a grant."""
        return (await self._grant(digest))[0]

    async def policy(self, digest: str, at: int) -> Opened[Policy]:
        """Return a policy with both signatures, in force at a time."""
        return (await self._policy(digest, at))[0]

    async def policy_document(self, digest: str, at: int) -> tuple[Opened[Policy], bytes]:
        """Return a policy, opened and as it was published."""
        return await self._policy(digest, at)

    async def manifest(self, digest: str, at: int) -> Opened[Manifest]:
        """Return an approved manifest."""
        return (await self._manifest(digest, at))[0]

    async def manifest_envelope(self, digest: str, at: int) -> bytes:
        """Return a manifest as it was approved."""
        return (await self._manifest(digest, at))[1]

    async def prices(self, digest: str, at: int) -> Opened[Prices]:
        """Return a price table."""
        return (await self._prices(digest, at))[0]

    async def prices_envelope(self, digest: str, at: int) -> bytes:
        """Return a price table as it was published."""
        return (await self._prices(digest, at))[1]

    async def key_list(self, digest: str) -> bytes:
        """Return a key list: ours, an earlier one, or the one that scope has meanwhile. Raises `Refused`."""
        kept = await self.kept(digest)
        if kept is not None:
            return kept
        raw = await self._scope.keys()
        if Trust.establish(self._trust.pin, raw).digest != digest:
            raise Refused("missing-document", "the seal names a key list that neither this gateway nor scope has")
        self._ledger.keep(digest, "keys", raw)
        return raw

    async def kept(self, digest: str) -> bytes | None:
        """Return what is kept under a digest."""
        async with self._reader.connect() as reader:
            return await store.document(reader, digest)

    async def _grant(self, digest: str) -> tuple[Opened[Grant], bytes]:
        fetch = partial(self._scope.grant, digest)
        return await self._document(digest, "grant", open_grant, fetch, lambda grant: grant.scope.job)

    async def _policy(self, digest: str, at: int) -> tuple[Opened[Policy], bytes]:
        async def fetch() -> bytes:
            return (await self._controls.policy(digest, at)).raw

        return await self._document(digest, "policy", partial(open_policy, at=at), fetch)

    async def _manifest(self, digest: str, at: int) -> tuple[Opened[Manifest], bytes]:
        async def fetch() -> bytes:
            return (await self._controls.manifest(digest, at)).raw

        return await self._document(digest, "manifest", partial(open_manifest, at=at), fetch)

    async def _prices(self, digest: str, at: int) -> tuple[Opened[Prices], bytes]:
        async def fetch() -> bytes:
            return (await self._controls.prices(digest, at)).raw

        return await self._document(digest, "prices", partial(open_prices, at=at), fetch)

    async def _document(
        self,
        digest: str,
        kind: str,
        opens: Callable[[Trust, bytes], Opened[T]],
        fetch: Callable[[], Awaitable[bytes]],
        job_of: Callable[[T], str | None] = lambda _: None,
    ) -> tuple[Opened[T], bytes]:
        kept = await self.kept(digest)
        raw = await fetch() if kept is None else kept
        opened = addressed(opens(self._trust, raw), digest)
        if kept is None:
            self._ledger.keep(digest, kind, raw, job_of(opened.value))
        return opened, raw
