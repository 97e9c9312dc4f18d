"""DSSE v1 envelopes: how every signed document travels (specs/envelope.md).

    {"payload":"…","payloadType":"application/vnd.tallystick.policy.v1+json",
     "signatures":[{"keyid":"…/ed25519","sig":"…"}]}

Parsing and believing are two acts: `Envelope.parse` gives a payload that nobody vouches for,
`Envelope.open` a `Signed`.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property

from msgspec import Struct, field

from verifier import signing
from verifier.encoding import b64, canonical, digest, read, unb64
from verifier.refused import Refused
from verifier.signing import ED25519, ML_DSA_44, KeyPair, PublicPair

# kind -> (largest payload in bytes, both signatures of the suite required)
KINDS: dict[str, tuple[int, bool]] = {
    "keys": (1 << 20, True),
    "policy": (1 << 18, True),
    "manifest": (1 << 20, True),
    "prices": (1 << 18, True),
    "latest": (1 << 12, False),
    "grant": (1 << 16, True),
    "seal": (1 << 20, True),
    "approval": (1 << 14, True),
    "revocation": (1 << 12, False),
    "heartbeat": (1 << 12, False),
}
MAX_SIGNATURES = 16
OVERHEAD = MAX_SIGNATURES * 4096


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """One signature: `keyid` is `<kid>/ed25519` or `<kid>/ml-dsa-44`."""

    keyid: str
    sig: str


class Signed(Struct, frozen=True):
    """A payload that somebody signed: `kids` are the keys whose every required signature is good."""

    payload: bytes
    digest: str
    kids: frozenset[str]


class Envelope(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The carrier of one payload and its signatures, exactly as received."""

    payload: str
    payload_type: str = field(name="payloadType")
    signatures: list[Signature]

    @classmethod
    def parse(cls, raw: bytes, kind: str) -> "Envelope":
        """Read an envelope of one kind. Raises `Refused` for its form; says nothing of its signatures."""
        largest, _ = KINDS[kind]
        envelope = read(raw, cls, limit=largest * 4 // 3 + OVERHEAD)
        if envelope.payload_type != payload_type(kind):
            raise Refused("wrong-kind", f"not a signed {kind}", field="payloadType")
        if len(envelope.content()) > largest:
            raise Refused("too-large", f"a {kind} has at most {largest} bytes", field="payload")
        keyids = [each.keyid for each in envelope.signatures]
        if keyids != sorted(set(keyids)):
            raise Refused("bad-signatures", "signatures are sorted by keyid, none twice", field="signatures")
        if len(keyids) > MAX_SIGNATURES:
            raise Refused("too-large", f"at most {MAX_SIGNATURES} signatures", field="signatures")
        envelope.decoded()
        return envelope

    def content(self) -> bytes:
        """Return the payload's bytes, which nobody has vouched for yet."""
        return self._content

    def kids(self) -> set[str]:
        """Name the keys that are said to have signed; nobody has checked."""
        return {each.keyid.rpartition("/")[0] for each in self.signatures}

    def decoded(self) -> list[bytes]:
        """Return the signatures' bytes, in order."""
        return self._decoded

    @cached_property
    def _content(self) -> bytes:
        return unb64(self.payload, field="payload")

    @cached_property
    def _decoded(self) -> list[bytes]:
        return [unb64(each.sig, field="sig") for each in self.signatures]

    def open(self, kind: str, keys: Mapping[str, PublicPair]) -> Signed:
        """Check every signature and return the payload with its signers.

        Raises `Refused`: unknown-signer (not in `keys`), bad-signature, missing-signature (none, or one of the two).
        """
        payload = self.content()
        message = pae(payload_type(kind), payload)
        good: dict[str, set[str]] = {}
        for each, signature in zip(self.signatures, self.decoded(), strict=True):
            name, _, algorithm = each.keyid.rpartition("/")
            if name not in keys or algorithm not in _algorithms(keys[name]):
                raise Refused(
                    "unknown-signer", f"signed by {each.keyid[:48]!r}, which no trusted list names", field="signatures"
                )
            if not signing.verify(algorithm, _algorithms(keys[name]), message, signature):
                raise Refused(
                    "bad-signature", f"the signature of {each.keyid} does not fit this payload", field="signatures"
                )
            good.setdefault(name, set()).add(algorithm)
        _require_all(kind, good)
        return Signed(payload, digest(payload), frozenset(good))

    def signed_by(self, kind: str, *pairs: KeyPair) -> "Envelope":
        """Add the signatures that `kind` asks of each key; one that a key gave already is kept as it is."""
        present = {each.keyid: each for each in self.signatures}
        for pair in pairs:
            for each in signatures(kind, self.content(), pair):
                present.setdefault(each.keyid, each)
        return Envelope(self.payload, self.payload_type, [present[keyid] for keyid in sorted(present)])

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical(self)


def seal_up(kind: str, payload: bytes, *pairs: KeyPair) -> bytes:
    """Sign a payload and return the envelope's canonical bytes."""
    return Envelope(b64(payload), payload_type(kind), []).signed_by(kind, *pairs).encode()


def signatures(kind: str, payload: bytes, pair: KeyPair) -> Iterable[Signature]:
    """Make the signatures that a kind asks of one key: both of the suite, or Ed25519 alone."""
    message = pae(payload_type(kind), payload)
    yield Signature(f"{pair.kid}/{ED25519}", b64(pair.ed25519(message)))
    if KINDS[kind][1]:
        yield Signature(f"{pair.kid}/{ML_DSA_44}", b64(pair.ml_dsa_44(message)))


def payload_type(kind: str) -> str:
    """Name a kind's media type."""
    return f"application/vnd.tallystick.{kind}.v1+json"


def pae(type_name: str, payload: bytes) -> bytes:
    """Encode what is signed: DSSE v1's pre-authentication encoding; lengths count bytes."""
    name = type_name.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _algorithms(pair: PublicPair) -> dict[str, bytes]:
    first, second = pair.raw()
    return {ED25519: first, ML_DSA_44: second} if second else {ED25519: first}


def _require_all(kind: str, good: Mapping[str, set[str]]) -> None:
    """Never degrade: a kind that asks for both signatures gets both from each key, and every kind gets one."""
    wanted = {ED25519, ML_DSA_44} if KINDS[kind][1] else {ED25519}
    if not good:
        raise Refused("missing-signature", f"a {kind} without any signature", field="signatures")
    for name, algorithms in good.items():
        if algorithms != wanted:
            raise Refused(
                "missing-signature",
                f"key {name} signed with {sorted(algorithms)}, a {kind} asks for {sorted(wanted)}",
                field="signatures",
            )
