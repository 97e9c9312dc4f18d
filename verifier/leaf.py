"""Receipts: the leaves of a lane's tree (specs/receipts.md). One canonical JSON line each, at most 8 KiB.

Codes and names only, never text from a call: every string of a receipt is made of `[A-Za-z0-9_.:/-]`, and what comes
from outside enters through `safe_text`. Fields stand in sorted order so that the fast encoder already writes the
canonical form (a test compares both encoders).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from verifier.encoding import Count, Time, digest, read
from verifier.refused import Refused

MAX_LEAF = 8192
MAX_TOOL_CALLS = 64
MAX_APPROVALS = 16
MAX_LABELS = 64

# Lengths are the typed reader's, characters `_harmless`'s: a pattern a field would cost more than all the rest.
_SAFE: dict[str, Any] = {"pattern": "^[A-Za-z0-9_.:/-]+$"}
SafeText = Annotated[str, Meta(min_length=1, max_length=128, extra_json_schema=_SAFE)]
Id = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema=_SAFE)]
Code = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema=_SAFE)]
Label = Code
Labels = Annotated[tuple[Label, ...], Meta(max_length=MAX_LABELS)]
Url = SafeText
Digest = Annotated[str, Meta(min_length=71, max_length=71, extra_json_schema={"pattern": "^sha256:[0-9a-f]{64}$"})]
Status = Literal["ok", "upstream_error", "client_abort", "policy_cut", "lost"]


class _Part(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    pass


class Commitment(_Part, frozen=True, kw_only=True):
    """`n` slices under an RFC 9162 root (specs/receipts.md §3)."""

    n: Annotated[int, Meta(ge=0, le=1 << 20)]
    root: Digest


class Target(_Part, frozen=True, kw_only=True):
    """What a call is aimed at: `server` and a `tool`, `resource` or `prompt`; `provider`, `model`, `operation`."""

    model: SafeText | None = None
    operation: SafeText | None = None
    prompt: SafeText | None = None
    provider: SafeText | None = None
    resource: SafeText | None = None
    server: SafeText | None = None
    tool: SafeText | None = None

    @property
    def named(self) -> tuple[str, str] | None:
        """Name what is asked of a server: of which kind, and its name; None of a model."""
        for kind, name in (("tool", self.tool), ("resource", self.resource), ("prompt", self.prompt)):
            if name is not None:
                return kind, name
        return None

    @property
    def place(self) -> str:
        """Name what is asked of a server as `server/name`; nothing of a model."""
        if self.tool is not None:  # by far the most, and asked for on each call
            return f"{self.server}/{self.tool}"
        return "" if self.named is None else f"{self.server}/{self.named[1]}"


class Facts(_Part, frozen=True, kw_only=True, rename={"labels": "data.labels"}):
    """What the gateway attests because nothing in the bundle can rebuild it; sorted, none twice."""

    labels: Labels


class Parent(_Part, frozen=True, kw_only=True):
    """The model's tool call that a tool call answers: `call` is the model call, `id` the tool call in its answer."""

    call: Id
    id: SafeText


class Reservation(_Part, frozen=True, kw_only=True):
    """What the call sets aside from the purse until its end says what it used."""

    cost_nano_usd: Count | None = None
    tokens: Count | None = None


class Echo(_Part, frozen=True, kw_only=True):
    """The last receipt that the client had seen."""

    hash: Digest
    seq: Count


Approvals = Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=MAX_APPROVALS)]
Inherited = Annotated[tuple[SafeText, ...], Meta(min_length=1, max_length=3)]


class ToolCall(_Part, frozen=True, kw_only=True):
    """A tool call that a model asked for."""

    id: SafeText
    name: SafeText


class Usage(_Part, frozen=True, kw_only=True):
    """Tokens by the provider's own figures."""

    input: Count
    output: Count


class Counts(_Part, frozen=True, kw_only=True):
    """How many leaves of each kind the lane holds, itself included."""

    begin: Count
    deny: Count
    end: Count
    note: Count
    token: Count


class _Leaf(_Part, frozen=True, kw_only=True, tag_field="kind"):
    """A leaf's kind is its tag: one reader for all of them, which finds it wherever it stands in a line."""

    @property
    def kind(self) -> str:
        """The kind, as a receipt names it."""
        return str(self.__struct_config__.tag)


class Open(_Leaf, frozen=True, kw_only=True, tag="open"):
    """Leaf 0 of every lane."""

    build: SafeText
    gateway: Url
    job: Id
    keys: Digest
    keys_version: Count
    lane: Id
    policy: Digest
    revocations: Count
    seq: Count
    suite: SafeText
    time: Time


class Token(_Leaf, frozen=True, kw_only=True, tag="token"):
    """First use of a token in this lane; `iat` and `exp` in seconds."""

    exp: Count
    grant: Digest
    iat: Count
    jti: Id
    scope_hash: Digest
    seq: Count
    time: Time


class Begin(_Leaf, frozen=True, kw_only=True, tag="begin"):
    """Durable before anything is sent upstream. `staleness`: microseconds since the last fresh revocation heartbeat.

    A released call names its `hold` by leaf hash and the `approvals` that released it by digest; `inherited` holds the
    rules of the policy's ancestors that allowed it too, nearest first. `observed` stands where the runtime runs the
    tool itself: for what became of it the gateway has its word alone. `boxes` commits to the sealed payloads behind a
    receipt of any kind: `n` documents, each a leaf of the tree (specs/disclosures.md §4).
    """

    approvals: Approvals | None = None
    boxes: Commitment | None = None
    call: Id
    counter: Count | None = None
    echo: Echo | None = None
    facts: Facts
    hold: Digest | None = None
    inherited: Inherited | None = None
    jti: Id
    manifest: Digest | None = None
    observed: Literal["runtime"] | None = None
    parent: Parent | None = None
    req: Commitment
    reservation: Reservation
    revocations: Count
    rule: SafeText
    sent: Commitment
    seq: Count
    staleness: Count
    target: Target
    time: Time


class End(_Leaf, frozen=True, kw_only=True, tag="end"):
    """Exactly one per begin. A lost call has no answer: no `recv`, no `dlv`.

    `server_requests` are the methods of what a server asks its client for before it answers.
    """

    boxes: Commitment | None = None
    call: Id
    code: Code | None = None
    dlv: Commitment | None = None
    flags: tuple[Code, ...]
    labels: Labels
    model: SafeText | None = None
    recv: Commitment | None = None
    redactions: Count
    screens: tuple[Code, ...]
    seq: Count
    server_requests: Annotated[tuple[Code, ...], Meta(min_length=1, max_length=16)] | None = None
    status: Status
    stream: Literal["complete", "cut"] | None = None
    time: Time
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=MAX_TOOL_CALLS)]
    tool_error: bool | None = None
    upstream_id: SafeText | None = None
    usage: Usage | None = None


class Deny(_Leaf, frozen=True, kw_only=True, tag="deny"):
    """A call that was refused: by the policy (replayed by the verifier) or by the gateway's own checks.

    One that people refused, or did not release in time, names its `hold` and the `approvals` that were given.
    """

    approvals: Approvals | None = None
    boxes: Commitment | None = None
    by: Literal["policy", "gateway"]
    call: Id
    code: Code
    counter: Count | None = None
    echo: Echo | None = None
    facts: Facts | None = None
    hold: Digest | None = None
    jti: Id
    manifest: Digest | None = None
    parent: Parent | None = None
    req: Commitment | None = None
    revocations: Count
    rule: SafeText | None = None
    seq: Count
    staleness: Count
    target: Target | None = None
    time: Time


class Hold(_Leaf, frozen=True, kw_only=True, tag="hold"):
    """A call that waits for people (specs/approvals.md).

    `sent` is what they approve: the call that it releases has the same id, so the same salts, and the same commitment.
    """

    boxes: Commitment | None = None
    call: Id
    counter: Count | None = None
    echo: Echo | None = None
    facts: Facts
    inherited: Inherited | None = None
    jti: Id
    manifest: Digest | None = None
    parent: Parent | None = None
    req: Commitment
    revocations: Count
    rule: SafeText
    sent: Commitment
    seq: Count
    staleness: Count
    target: Target
    tier: Literal["confirm", "human"]
    time: Time


class Note(_Leaf, frozen=True, kw_only=True, tag="note"):
    """An incident mark; `count` where one note stands for many events."""

    code: Code
    count: Count | None = None
    seq: Count
    time: Time


class Close(_Leaf, frozen=True, kw_only=True, tag="close"):
    """The last leaf."""

    counts: Counts
    reason: Code
    seq: Count
    time: Time


Leaf = Open | Token | Begin | End | Deny | Hold | Note | Close
KINDS: dict[str, type[Leaf]] = {
    "open": Open, "token": Token, "begin": Begin, "end": End,
    "deny": Deny, "hold": Hold, "note": Note, "close": Close,
}  # fmt: skip
NAMES = tuple(KINDS)
CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-"
HEX = b"0123456789abcdef"
_DIGEST = 71
_PREFIX = b"sha256:"
_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Leaf)
_skeletons: set[bytes] = set()
_MAX_SKELETONS = 4096


def encode(leaf: Leaf) -> bytes:
    """Return a leaf's canonical bytes. Raises `Refused`: too-large beyond 8 KiB, bad-value for harmful text."""
    raw = _encoder.encode(leaf)
    if len(raw) > MAX_LEAF:
        raise Refused("too-large", f"a receipt of {len(raw)} bytes, at most {MAX_LEAF}")
    decode(raw)
    return raw


def decode(raw: bytes) -> Leaf:
    """Read one leaf from its canonical bytes, or refuse it by code."""
    if len(raw) > MAX_LEAF:
        raise Refused("too-large", f"a receipt of {len(raw)} bytes, at most {MAX_LEAF}")
    try:
        leaf: Leaf = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _explain(raw)
    if _encoder.encode(leaf) != raw:
        return _explain(raw)
    _check_harmless(raw)
    if not _are_digests(_named(leaf)):
        raise Refused("bad-value", "a digest is sha256: and 64 lower-case hex digits")
    return leaf


def decode_many(raws: list[bytes]) -> Sequence[Leaf | Refused]:
    """Read many leaves at once, in order; each is read, or refused, exactly as by `decode`, in a third of the time.

    They are decoded together and encoded together: equal bytes, so equal lines, since no line has a newline in it.
    Where anything is wrong with one of them, they are read one by one.
    """
    return _together(raws, b"\n".join(raws)) or [_alone(raw) for raw in raws]


def _together(raws: list[bytes], lines: bytes) -> list[Leaf] | None:
    """Read lines at once; None when something is wrong with one of them."""
    try:
        found: list[Leaf] = _decoder.decode_lines(lines)
        if _encoder.encode_lines(found) != lines + b"\n" or max(map(len, raws)) > MAX_LEAF:
            return None
        _check_harmless(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Refused):
        return None
    return found if _are_digests("".join(map(_named, found))) else None


def _alone(raw: bytes) -> Leaf | Refused:
    try:
        return decode(raw)
    except Refused as refused:
        return refused


def _explain(raw: bytes) -> Leaf:
    """Say by code why a line is no leaf: one of a known kind is read as such."""
    fields: dict[str, Any] = read(raw, dict, limit=MAX_LEAF)
    known = KINDS.get(str(fields.get("kind")))
    if known is None:
        raise Refused("wrong-kind", "a receipt of no known kind", field="kind")
    return read(raw, known, limit=MAX_LEAF)


def _check_harmless(lines: bytes) -> None:
    """Check that nothing but harmless characters stands between quotes.

    A skeleton is a line without its harmless characters; its quotes still say what is text, so every line with the same
    skeleton is as harmless as the first, and a lane has few of them.
    """
    for skeleton in set(lines.translate(None, CHARACTERS).split(b"\n")) - _skeletons:
        if any(skeleton.split(b'"')[1::2]):
            raise Refused("bad-value", "text in a receipt is made of letters, digits and _ . : / - only")
        if len(_skeletons) < _MAX_SKELETONS:
            _skeletons.add(skeleton)


def _are_digests(text: str) -> bool:
    """Check digests of 71 characters that stand one after the other.

    Each begins with `sha256:`, column by column; and nothing else in them is no hex digit but its `s`, `h` and `:`.
    """
    raw = text.encode()
    count = len(raw) // _DIGEST
    prefixes = all(raw[at::_DIGEST] == _PREFIX[at : at + 1] * count for at in range(len(_PREFIX)))
    return prefixes and raw.translate(None, HEX) == b"sh:" * count


def _named(leaf: Leaf) -> str:
    """Join all digests of a leaf."""
    return _NAMED[leaf.__class__](leaf)


def _root(commitment: Commitment | None) -> str:
    return "" if commitment is None else commitment.root


def _begin(leaf: Begin) -> str:
    roots = leaf.req.root + leaf.sent.root
    if leaf.manifest is not None:
        roots += leaf.manifest
    if leaf.hold is not None or leaf.echo is not None or leaf.approvals is not None or leaf.boxes is not None:
        roots += _claims(leaf)
    return roots


def _hold(leaf: Hold) -> str:
    echo = leaf.echo.hash if leaf.echo else ""
    return leaf.req.root + leaf.sent.root + (leaf.manifest or "") + echo + _root(leaf.boxes)


def _claims(leaf: Begin | Deny) -> str:
    """Join what few calls have: a hold, an echo, sealed payloads, approvals."""
    echo = leaf.echo.hash if leaf.echo else ""
    return "".join((leaf.hold or "", echo, _root(leaf.boxes), *(leaf.approvals or ())))


_NAMED: dict[type, Callable[[Any], str]] = {
    Open: lambda leaf: leaf.keys + leaf.policy,
    Token: lambda leaf: leaf.grant + leaf.scope_hash,
    Begin: _begin,
    End: lambda leaf: _root(leaf.recv) + _root(leaf.dlv) + _root(leaf.boxes),
    Deny: lambda leaf: _root(leaf.req) + (leaf.manifest or "") + _claims(leaf),
    Hold: _hold,
    Note: lambda _: "",
    Close: lambda _: "",
}


def leaf_digest(raw: bytes) -> str:
    """Address a leaf by its Merkle leaf hash, as echoes and holds name it."""
    return digest(b"\0" + raw)
