"""What callers and the registry say to each other, and the clients: one that reads, one that publishes.

The reader believes nothing that it fetches: it recomputes the digest and opens every document with the caller's own
trust, as the verifier does, before it returns it. Documents by digest never change, so it keeps them in memory.
"""

import os
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from msgspec import Meta, Struct

from verifier.documents import MANIFEST, POLICY, PRICES, Kind, Opened, addressed, open_manifest
from verifier.encoding import SafeText, Time, canonical, digest
from verifier.envelope import Envelope
from verifier.keys import Pin, Trust
from verifier.latest import Latest
from verifier.manifest import Manifest
from verifier.policy import Policy
from verifier.prices import Prices
from verifier.private import write_private
from verifier.refused import Refused
from verifier.rules import Label

T = TypeVar("T")
Credential = Callable[[], str]

MAX_ANSWER = 1 << 22
OLDER = "It is of an older version: update controls first."
MAX_KEPT = 256
MAX_KEPT_BYTES = 1 << 24
MAX_FILES = 4096
_digest = re.compile(r"sha256:[0-9a-f]{64}").fullmatch
SECOND = 1_000_000
TIMEOUT = aiohttp.ClientTimeout(total=30)

Line = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,512}\Z")]
ServerUrl = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,100}(/[A-Za-z0-9._~/-]{0,128})?\Z")]


class Withdrawal(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a policy is withdrawn; a sentence for people."""

    reason: Line


class ServerRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an organisation says of a server: what for, whose, where, with which data, and when it is looked at again.

    `local` names tools that the agent's runtime runs itself, which have no `url`; `provenance` is where the server's
    code comes from.
    `data_classes` are the most that a tool's manifest entry may carry. `suspended` and `retired` servers have no
    manifest for new jobs.
    """

    purpose: Line
    owner: SafeText
    url: ServerUrl | None = None
    transport: Literal["streamable-http", "local"]
    data_classes: Annotated[list[Label], Meta(max_length=64)]
    last_review: Time
    next_review: Time
    status: Literal["active", "suspended", "retired"]
    provenance: Line | None = None


class PolicyStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a new job may pin a policy, and by server the digests of the manifests that it would get.

    Only of servers that the policy's own rules name. `ancestor` is the one that was withdrawn, where it is not itself.
    """

    digest: str
    status: Literal["published", "withdrawn"]
    withdrawn_at: int | None = None
    withdrawn_by: str | None = None
    reason: str | None = None
    ancestor: str | None = None
    manifests: dict[str, str] | None = None


class PolicyEntry(Struct, frozen=True, kw_only=True):
    """One line of the history of policies; times in microseconds."""

    digest: str
    issuer: str
    name: str
    serial: int
    valid_from: int
    valid_until: int
    published_at: int
    published_by: str
    status: Literal["published", "withdrawn"]


class PolicyPage(Struct, frozen=True, omit_defaults=True):
    """A page of the history, the newest first; `next` is the `before` of the following page."""

    items: list[PolicyEntry]
    next: int | None = None


class ServerEntry(Struct, frozen=True, kw_only=True):
    """A registered server; `manifest_serial` 0 says that it has no manifest yet."""

    name: str
    record: ServerRecord
    registered_at: int
    updated_at: int
    updated_by: str
    manifest_serial: int


class ServerPage(Struct, frozen=True, omit_defaults=True):
    """A page of servers by name; `next` is the `after` of the following page."""

    items: list[ServerEntry]
    next: str | None = None


class Document(Struct, Generic[T], frozen=True):
    """A document that was checked, and `raw`, the very bytes that were signed."""

    value: T
    digest: str
    raw: bytes


class Connection:
    """HTTP to the registry: sizes and times bounded, redirects not followed, refusals read by their code."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Credential | None = None) -> None:
        """`credential` makes a fresh client token for each request that is not public (service/clients.py)."""
        self._session = session
        self._url = url.rstrip("/")
        self._credential = credential

    async def call(self, method: str, path: str, body: bytes | None = None, *, public: bool = False) -> bytes:
        """Send a request. Raises `Refused` with the registry's own code, or controls-unavailable."""
        headers = {} if public else self._authorization()
        data = None if body is None else BytesIO(body)
        sent: dict[str, Any] = {"headers": headers, "data": data, "allow_redirects": False, "timeout": TIMEOUT}
        try:
            async with self._session.request(method, self._url + path, **sent) as answer:
                content = await _read(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(f"the registry does not answer: {type(error).__name__}") from error
        if answer.status >= 300:  # noqa: PLR2004 - redirects are not followed
            raise _refusal(answer.status, content)
        return content

    def _authorization(self) -> dict[str, str]:
        if self._credential is None:
            raise Refused("unauthenticated", "this address asks who calls", hint="Name a client of the registry.")
        return {"Authorization": f"Bearer {self._credential()}"}


class ControlsClient:
    """A reader of the registry. Policies, manifests and price tables by digest and the key list need no credential."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        trust: Trust,
        credential: Credential | None = None,
        *,
        cache: Path | None = None,
    ) -> None:
        """Believe only what `trust` vouches for; with `cache`, a directory, keep documents there and work offline."""
        self._http = Connection(session, url, credential)
        self._trust = trust
        self._cache = None if cache is None else Cache(cache)
        self._kept: OrderedDict[tuple[str, str], tuple[bytes, Opened[Any]]] = OrderedDict()

    async def policy(self, wanted: str, at: int) -> Document[Policy]:
        """Fetch a policy by digest and open it for a time: the grant's. Raises `Refused`, also wrong-digest."""
        return await self._document(f"/policies/{_part(wanted)}", wanted, POLICY, at)

    async def manifest(self, wanted: str, at: int) -> Document[Manifest]:
        """Fetch a manifest by digest and open it for a time: the grant's. Raises `Refused`, also wrong-digest."""
        return await self._document(f"/manifests/{_part(wanted)}", wanted, MANIFEST, at)

    async def prices(self, wanted: str, at: int) -> Document[Prices]:
        """Fetch a price table by digest and open it for a time: the grant's. Raises `Refused`, also wrong-digest."""
        return await self._document(f"/prices/{_part(wanted)}", wanted, PRICES, at)

    async def approved_manifest(self, server: str, at: int, told: str | None = None) -> Document[Manifest]:
        """Fetch the manifest that a new job gets; `told` is its digest where `status` has told it.

        Raises `Refused`: unknown-server, no-manifest, server-not-active.
        """
        found = await (self._newest_manifest(server, at) if told is None else self.manifest(told, at))
        if found.value.server != server:
            raise Refused("wrong-server", f"asked for the manifest of {server}, got one of {found.value.server}")
        return found

    async def _newest_manifest(self, server: str, at: int) -> Document[Manifest]:
        raw = await self._http.call("GET", f"/servers/{_part(server)}/manifest")
        opened = open_manifest(self._trust, raw, at)
        return Document(opened.value, opened.digest, raw)

    async def status(self, wanted: str) -> PolicyStatus:
        """Ask whether a new job may pin a policy, and which manifests it would get."""
        status = _decode(await self._http.call("GET", f"/policies/{_part(wanted)}/status"), PolicyStatus)
        if status.digest != wanted:
            raise Refused("wrong-digest", "the registry answers for another policy")
        if status.status == "published" and status.manifests is None:
            raise Refused("controls-unavailable", "this registry does not say which manifests a job gets", hint=OLDER)
        return status

    async def latest(self, name: str, now: int, issuer: str | None = None, max_age_seconds: int = 60) -> Latest:
        """Ask for the newest policy of a name, signed. Raises `Refused`, stale-latest when a mirror is old."""
        query = "" if issuer is None else f"?issuer={_part(issuer)}"
        raw = await self._http.call("GET", f"/policies/{_part(name)}/latest{query}")
        signed = self._trust.open(raw, "latest")
        said = Latest.parse(signed.payload)
        self._trust.signer(signed.kids, "registry", said.issuer, now)
        if said.policy_name != name or (issuer is not None and said.policy_issuer != issuer):
            raise Refused("wrong-policy", "the registry answers for another policy")
        if abs(now - said.time) > max_age_seconds * SECOND:
            raise Refused("stale-latest", f"this answer is not of the last {max_age_seconds} seconds")
        return said

    async def history(
        self, *, name: str | None = None, issuer: str | None = None, kid: str | None = None
    ) -> AsyncIterator[PolicyEntry]:
        """Walk through the published policies, the newest first, of one name, issuer or signing key when asked."""
        asked = {key: value for key, value in (("name", name), ("issuer", issuer), ("kid", kid)) if value is not None}
        before: int | None = 0
        while before is not None:
            query = urlencode({**asked, **({"before": before} if before else {})})
            page = _decode(await self._http.call("GET", f"/policies?{query}"), PolicyPage)
            for each in page.items:
                yield each
            before = page.next

    async def servers(self) -> AsyncIterator[ServerEntry]:
        """Walk through every registered server."""
        after: str | None = ""
        while after is not None:
            query = f"?after={_part(after)}" if after else ""
            page = _decode(await self._http.call("GET", f"/servers{query}"), ServerPage)
            for each in page.items:
                yield each
            after = page.next

    async def _document(self, path: str, wanted: str, kind: Kind[T], at: int) -> Document[T]:
        raw, opened = self._remembered(wanted, kind, at) or await self._fetched(path, wanted, kind, at)
        return Document(opened.value, opened.digest, raw)

    def _remembered(self, wanted: str, kind: Kind[T], at: int) -> tuple[bytes, Opened[T]] | None:
        """Find what was fetched before. Form and signatures never change; whether it counts is asked each time."""
        kept = self._kept.get((kind.name, wanted))
        if kept is not None:
            kind.check(self._trust, kept[1], at)
            self._kept.move_to_end((kind.name, wanted))
            return kept
        found = self._cached(wanted, kind, at)
        return None if found is None else self._keep(wanted, kind, *found)

    def _keep(self, wanted: str, kind: Kind[T], raw: bytes, opened: Opened[T]) -> tuple[bytes, Opened[T]]:
        """Keep a document, and let the oldest go beyond what may be kept."""
        self._kept[kind.name, wanted] = raw, opened
        while len(self._kept) > MAX_KEPT or sum(len(each) for each, _ in self._kept.values()) > MAX_KEPT_BYTES:
            self._kept.popitem(last=False)
        return raw, opened

    def _cached(self, wanted: str, kind: Kind[T], at: int) -> tuple[bytes, Opened[T]] | None:
        """Open what a file holds; one that is not what it says it is, is dropped and fetched again."""
        raw = None if self._cache is None else self._cache.read(wanted)
        if raw is None or self._cache is None:
            return None
        try:
            if digest(Envelope.parse(raw, kind.name).content()) == wanted:
                return raw, addressed(kind.open(self._trust, raw, at), wanted)
        except Refused as refused:
            if refused.code in {"policy-not-valid", "key-revoked", "key-not-valid"}:
                raise  # the document is whole; it is its time that is over
        self._cache.drop(wanted)
        return None

    async def _fetched(self, path: str, wanted: str, kind: Kind[T], at: int) -> tuple[bytes, Opened[T]]:
        raw = await self._http.call("GET", path, public=True)
        opened = addressed(kind.open(self._trust, raw, at), wanted)
        if self._cache is not None:
            self._cache.write(wanted, raw)
        return self._keep(wanted, kind, raw, opened)


class Cache:
    """Documents by digest in a directory of mode 0700, whole or not at all; what is read is believed by nobody yet."""

    def __init__(self, directory: Path) -> None:
        """Make the directory."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory

    def read(self, wanted: str) -> bytes | None:
        """Read a document; None when it is not there, or larger than any document is."""
        try:
            with self._path(wanted).open("rb") as file:
                raw = file.read(MAX_ANSWER + 1)
        except OSError:
            return None
        return raw if len(raw) <= MAX_ANSWER else None

    def write(self, wanted: str, raw: bytes) -> None:
        """Keep a document, and drop the oldest beyond the bound; a full disk keeps nothing and harms nobody."""
        beside = self._directory / f".{os.getpid()}.{secrets.token_hex(8)}"
        try:
            write_private(beside, raw)
            beside.replace(self._path(wanted))
            kept = sorted(self._directory.glob("sha256-*"), key=lambda each: each.stat().st_mtime_ns)
            for each in kept[:-MAX_FILES]:
                each.unlink(missing_ok=True)
        except OSError:
            beside.unlink(missing_ok=True)

    def drop(self, wanted: str) -> None:
        """Forget a document."""
        self._path(wanted).unlink(missing_ok=True)

    def _path(self, wanted: str) -> Path:
        if not _digest(wanted):
            raise Refused("bad-value", "not a digest: it names no file")
        return self._directory / wanted.replace(":", "-")


class Publisher:
    """Whoever writes to the registry: an author, a registrar, a responder."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Credential) -> None:
        """Every request carries a credential."""
        self._http = Connection(session, url, credential)

    async def publish(self, raw: bytes, *, allow_wider: bool = False) -> Document[bytes]:
        """Publish a signed policy; `value` is its payload, `raw` the frozen envelope.

        Raises `Refused`, wider-policy where it lets more through than the newest of its name and nobody allowed it.
        """
        return await self._put("policy", "/policies", raw, "?allow_wider=true" if allow_wider else "")

    async def withdraw(self, wanted: str, reason: str) -> PolicyStatus:
        """Withdraw a policy from new jobs."""
        body = canonical(Withdrawal(reason))
        return _decode(await self._http.call("POST", f"/policies/{_part(wanted)}/withdraw", body), PolicyStatus)

    async def register(self, name: str, record: ServerRecord) -> ServerEntry:
        """Register a server, or replace its record."""
        return _decode(await self._http.call("PUT", f"/servers/{_part(name)}", canonical(record)), ServerEntry)

    async def scan(self, name: str) -> dict[str, Any]:
        """Have a server asked for its tools: drift, warnings, and a draft for `tally manifest build`."""
        return _decode(await self._http.call("POST", f"/servers/{_part(name)}/scan", b""), dict[str, Any])

    async def approve(self, server: str, raw: bytes) -> Document[bytes]:
        """Approve a signed manifest for a server; `value` is its payload, `raw` the stored envelope."""
        return await self._put("manifest", f"/servers/{_part(server)}/manifests", raw)

    async def price(self, raw: bytes) -> Document[bytes]:
        """Publish a signed price table; `value` is its payload, `raw` the stored envelope."""
        return await self._put("prices", "/prices", raw)

    async def _put(self, kind: str, path: str, raw: bytes, query: str = "") -> Document[bytes]:
        wanted = digest(Envelope.parse(raw, kind).content())
        stored = await self._http.call("PUT", f"{path}/{wanted}{query}", raw)
        payload = Envelope.parse(stored, kind).content()
        if digest(payload) != wanted:
            raise Refused("wrong-digest", "the registry answers with another document than the one it was given")
        return Document(payload, wanted, stored)


async def audit_lines(http: Connection) -> AsyncIterator[bytes]:
    """Walk through a service's record as an auditor: canonical lines, the oldest first (specs/audit.md)."""
    after: int | None = 0
    while after is not None:
        page = _decode(await http.call("GET", f"/audit?after={after}&limit=100"), _AuditPage)
        for each in page.items:
            yield canonical(each)
        after = page.next


async def fetch_trust(session: aiohttp.ClientSession, url: str, pin: Pin) -> Trust:
    """Fetch the key list and open it with one's own pin. Raises `Refused`, unknown-root when the pin is another's."""
    return Trust.establish(pin, await Connection(session, url).call("GET", "/keys", public=True))


class _AuditPage(Struct):
    items: list[dict[str, Any]]
    next: int | None = None


class _Problem(Struct):
    code: str
    detail: str = ""
    hint: str = ""
    field: str = ""


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise _unavailable("the registry answers with more than is read")
    return content


def _refusal(status: int, content: bytes) -> Refused:
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _unavailable(f"the registry answers {status} without a reason")
    return Refused(problem.code, problem.detail, hint=problem.hint, field=problem.field)


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unavailable("the registry answers with something else") from error


def _unavailable(why: str) -> Refused:
    return Refused("controls-unavailable", why)


def _part(text: str) -> str:
    """Write text as one segment of a path or one value of a query."""
    return quote(text, safe="")
