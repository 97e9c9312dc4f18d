"""Every document's carrier: encoding and envelope, shown on the grant."""

import json
from collections.abc import Callable

from msgspec.structs import replace

from tests.vectors.bundles.make import bent, edit, grant_bent, signed, story
from tests.vectors.case import Made, case
from tests.world import pair
from verifier.encoding import b64, canonical
from verifier.envelope import Envelope, seal_up

MADE: Made = {}


@case(
    MADE,
    "MALFORMED not-canonical",
    "an honest bundle written again with spaces: not tampered with, and not the bytes",
    also="missing-document",
)
def grant_reserialised() -> bytes:
    return edit("grant", lambda raw: json.dumps(json.loads(raw), indent=None).encode())


@case(
    MADE,
    "MALFORMED not-canonical",
    "two keys of one name: two parsers may keep different ones",
    also="missing-document",
)
def grant_with_duplicate_key() -> bytes:
    return edit("grant", lambda raw: raw.replace(b'{"payload"', b'{"payload":"e30=","payload"', 1))


@case(
    MADE,
    "MALFORMED unknown-field",
    "a bare payload where an envelope belongs: no signature at all",
    also="missing-document",
)
def grant_without_envelope() -> bytes:
    world = story()
    return edit("grant", lambda _: world.grant_payload, world)


@case(MADE, "FAIL missing-signature", "an envelope without signatures", also="missing-document")
def grant_without_signatures() -> bytes:
    return edit("grant", lambda raw: canonical(replace(Envelope.parse(raw, "grant"), signatures=[])))


def _stripped(kind: str, algorithm: str) -> bytes:
    def strip(raw: bytes) -> bytes:
        envelope = Envelope.parse(raw, kind)
        kept = [each for each in envelope.signatures if not each.keyid.endswith(algorithm)]
        return canonical(replace(envelope, signatures=kept))

    return edit(kind, strip)


@case(
    MADE,
    "FAIL missing-signature",
    "the grant keeps its Ed25519 signature alone: never degraded",
    also="missing-document",
)
def grant_stripped_of_ml_dsa() -> bytes:
    return _stripped("grant", "ml-dsa-44")


@case(MADE, "FAIL missing-signature", "the grant keeps its ML-DSA signature alone", also="missing-document")
def grant_stripped_of_ed25519() -> bytes:
    return _stripped("grant", "/ed25519")


@case(MADE, "FAIL missing-signature", "the seal keeps its Ed25519 signature alone", also="no-seal")
def seal_stripped_of_ml_dsa() -> bytes:
    return _stripped("seal", "ml-dsa-44")


@case(MADE, "FAIL missing-signature", "the key list keeps its Ed25519 signature alone")
def keys_stripped_of_ml_dsa() -> bytes:
    return _stripped("keys", "ml-dsa-44")


@case(
    MADE,
    "FAIL missing-signature",
    "Ed25519 by one owner, ML-DSA-44 by another: two halves are not a pair",
    also="missing-document",
)
def policy_with_halves_of_two_owners() -> bytes:
    def mix(raw: bytes) -> bytes:
        envelope = Envelope.parse(raw, "policy")
        halves = {f"{pair('author').kid}/ed25519", f"{pair('registry').kid}/ml-dsa-44"}
        return canonical(replace(envelope, signatures=[each for each in envelope.signatures if each.keyid in halves]))

    return edit("policy", mix)


@case(MADE, "FAIL bad-signature", "one field of the signed grant was changed", also="missing-document")
def grant_payload_changed() -> bytes:
    def change(raw: bytes) -> bytes:
        envelope = Envelope.parse(raw, "grant")
        payload = envelope.content().replace(b"agent-1", b"agent-2")
        return canonical(replace(envelope, payload=b64(payload)))

    return edit("grant", change)


@case(
    MADE, "FAIL bad-signature", "signed as a manifest, sent as a grant: the type is signed too", also="missing-document"
)
def grant_signed_as_another_kind() -> bytes:
    world = story()
    other = Envelope.parse(seal_up("seal", world.grant_payload, pair("grant")), "seal")
    return signed(world, grants=[canonical(replace(other, payload_type="application/vnd.tallystick.grant.v1+json"))])


@case(MADE, "MALFORMED wrong-kind", "an envelope of a manifest on the grant's line", also="missing-document")
def grant_of_another_kind() -> bytes:
    world = story()
    return signed(world, grants=[seal_up("manifest", world.grant_payload, pair("grant"))])


@case(MADE, "MALFORMED unknown-field", "the envelope names its own algorithm", also="missing-document")
def envelope_with_algorithm() -> bytes:
    return edit("grant", lambda raw: raw.replace(b'{"payload"', b'{"alg":"none","payload"', 1))


@case(
    MADE, "UNTRUSTED unknown-signer", "a signature of an algorithm that the key does not have", also="missing-document"
)
def signature_names_algorithm() -> bytes:
    return edit("grant", lambda raw: raw.replace(b"/ed25519", b"/hmac-sha256", 1))


@case(MADE, "MALFORMED bad-signatures", "signatures out of order", also="missing-document")
def signatures_unsorted() -> bytes:
    def turn(raw: bytes) -> bytes:
        envelope = Envelope.parse(raw, "grant")
        return canonical(replace(envelope, signatures=envelope.signatures[::-1]))

    return edit("grant", turn)


@case(MADE, "MALFORMED bad-signatures", "one signature stands twice", also="missing-document")
def signature_twice() -> bytes:
    def double(raw: bytes) -> bytes:
        envelope = Envelope.parse(raw, "grant")
        return canonical(replace(envelope, signatures=[envelope.signatures[0], *envelope.signatures]))

    return edit("grant", double)


def _with_sig(change: Callable[[str], str]) -> bytes:
    def apply(raw: bytes) -> bytes:
        envelope = Envelope.parse(raw, "grant")
        first, *rest = envelope.signatures
        return canonical(replace(envelope, signatures=[replace(first, sig=change(first.sig)), *rest]))

    return edit("grant", apply)


@case(MADE, "MALFORMED bad-base64", "a signature that is no base64", also="missing-document")
def signature_not_base64() -> bytes:
    return _with_sig(lambda sig: sig[:-1])


@case(
    MADE,
    "MALFORMED non-canonical-base64",
    "stray bits: another text that decodes to the same bytes",
    also="missing-document",
)
def signature_with_stray_bits() -> bytes:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return _with_sig(lambda sig: sig[:-3] + alphabet[alphabet.index(sig[-3]) + 1] + "==")


@case(MADE, "MALFORMED too-deep", "a payload nested far deeper than any format", also="missing-document")
def grant_too_deep() -> bytes:
    world = story()
    deep = world.grant_payload.replace(b'"limits":{}', b'"limits":' + b"[" * 100 + b"]" * 100)
    return signed(world, grants=[seal_up("grant", deep, pair("grant"))])


@case(MADE, "MALFORMED too-large", "a grant larger than any grant", also="missing-document")
def grant_too_large() -> bytes:
    world = story()
    tools = [f"mcp:crm-mcp/{'x' * 100}{n:04}" for n in range(700)]
    payload = bent(world.grant_payload, lambda it: it["scope"].update(tools=tools))
    return signed(world, grants=[seal_up("grant", payload, pair("grant"))])


@case(MADE, "MALFORMED wrong-type", "a number where a name belongs", also="missing-document")
def grant_of_wrong_type() -> bytes:
    return grant_bent(lambda it: it["scope"].update(agent=1))


@case(MADE, "MALFORMED unknown-field", "a grant with a field that the format does not have", also="missing-document")
def grant_with_unknown_field() -> bytes:
    return grant_bent(lambda it: it.update(admin=True))


@case(MADE, "MALFORMED missing-field", "a grant without an audience", also="missing-document")
def grant_without_audience() -> bytes:
    return grant_bent(lambda it: it["scope"].pop("audience"))


@case(MADE, "MALFORMED wrong-type", "null where a field should be absent", also="missing-document")
def grant_with_null() -> bytes:
    return grant_bent(lambda it: it.update(expires=None))
