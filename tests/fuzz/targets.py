"""The targets: a reader, what it must hold to, and the seeds that a corpus begins with (of `specs/vectors/`).

Signatures stop a fuzzer at the door, so where a target says `unsigned` every signature is taken for good: what lies
behind the check is then reached with bytes that nobody signed, as a dishonest signer could send them.
"""

import base64
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import msgspec

from receipts.tokens import check_time, read_token
from scope.mint import encode
from tests.fuzz.bend import bend
from tests.vectors.case import FROZEN, VECTORS, Case
from tests.world import GATEWAY, NOW, SCOPE, World, pair
from verifier import checkpoint, leaf, signing, witness
from verifier.audit import verify
from verifier.codes import CODES, Verdict
from verifier.encoding import b64, canonical, unb64
from verifier.envelope import KINDS, Envelope
from verifier.grant import Grant, Token, authorization_details
from verifier.keys import KeyList, Pin, Trust
from verifier.policy import Policy
from verifier.refused import Refused

SECOND = 1_000_000
# What the token's reader says beyond the codes of documents (specs/errors.md §3).
TOKEN_CODES = {"bad-token", "wrong-audience", "token-expired", "token-not-valid-yet"}


@dataclass(frozen=True)
class Target:
    """One reader. `seeds` are the contents of files; `bend` bends as the format asks; `codes` may come out.

    `most` is the length in bytes that the fuzzer goes to.
    """

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    bend: Callable[[bytes, random.Random], bytes] = bend
    codes: frozenset[str] = frozenset(CODES)
    unsigned: bool = False
    most: int = 1 << 14

    def __call__(self, data: bytes) -> None:
        """Feed the reader; what is no refusal by a public code is raised."""
        try:
            self.read(data)
        except Refused as refused:
            if refused.code not in self.codes:
                raise AssertionError(f"{refused.code} is no public code") from refused


def vectors(*folders: str) -> list[bytes]:
    """Take the bytes of every vector of some folders."""
    return [Case.parse(path.read_bytes()).raw for folder in folders for path in sorted((VECTORS / folder).iterdir())]


@cache
def world() -> World:
    """Play the honest story once."""
    return World().story()


@cache
def pin() -> Pin:
    """Read the pin of the vectors."""
    return Pin.parse((VECTORS / "pin.json").read_bytes())


@cache
def trust() -> Trust:
    """Open the key list of the vectors."""
    return Trust.establish(pin(), (VECTORS / "keys.json").read_bytes())


# Readers --------------------------------------------------------------------------------------------------------------


def read_envelope(data: bytes) -> None:
    """Read an envelope as the kind that it names, and as another, and open it; what reads is what came."""
    kind = next((kind for kind in KINDS if f"tallystick.{kind}.".encode() in data), "grant")
    envelope = Envelope.parse(data, kind)
    assert envelope.encode() == data
    with suppress(Refused):
        Envelope.parse(data, next(each for each in KINDS if each != kind))
        raise AssertionError("read as another kind")
    trust().open(data, kind)


def read_policy(data: bytes) -> None:
    """Read a policy; it is written again as it came."""
    assert canonical(Policy.parse(data)) == data


def read_leaf(data: bytes) -> None:
    """Read a receipt; it is written again as it came."""
    assert leaf.encode(leaf.decode(data)) == data


def read_keys(data: bytes) -> None:
    """Read a key list, and as a root's own envelope; every key that it names is one."""
    listed = KeyList.parse(data)
    assert canonical(listed) == data
    raw = canonical(
        {
            "payload": b64(data),
            "payloadType": "application/vnd.tallystick.keys.v1+json",
            "signatures": [
                {"keyid": f"{pair('root').kid}/{half}", "sig": b64(bytes(64))} for half in ("ed25519", "ml-dsa-44")
            ],
        }
    )
    found = Trust.establish(pin(), raw)
    found.current(NOW)
    for each in found.listed.keys:
        found.signer(frozenset({each.kid}), each.use, each.owner, NOW)


def read_tokens(data: bytes) -> None:
    """Read a token: as it came, or as the claims of one that scope signed; what is accepted can be held to a grant."""
    text = data.decode("utf-8", "replace")
    if data[:1] == b"{":
        head, _, signature = encode(_honest(), pair("token")).split(".")
        text = ".".join([head, base64.urlsafe_b64encode(data).rstrip(b"=").decode(), signature])
    token = read_token(text, trust(), issuer=SCOPE, audience=GATEWAY, now=NOW)
    check_time(token, NOW + 100 * SECOND)
    token.fits(world().grant)


def read_bundle(data: bytes) -> None:
    """Audit a bundle: it never raises, and verdict, exit code and findings agree."""
    report = verify(BytesIO(data), pin())
    verdicts = [Verdict[finding.verdict] for finding in report.findings]
    assert report.verdict == max(verdicts, default=Verdict.PASS).name
    assert report.exit_code == Verdict[report.verdict].exit_code
    assert {finding.code for finding in report.findings} <= set(CODES)
    assert all(1 <= finding.step <= 14 for finding in report.findings)
    msgspec.json.encode(report)


def _honest() -> Token:
    grant: Grant = world().grant
    return Token(
        iss=SCOPE, sub="agent-1", aud=GATEWAY, client_id="orchestrator-1", iat=NOW // SECOND, nbf=NOW // SECOND,
        exp=NOW // SECOND + 300, jti="token-1", txn="job-1", policy_hash=world().policy_digest,
        scope_hash=grant.scope.hash(), grant=world().grant_digest,
        authorization_details=authorization_details(grant.scope),
    )  # fmt: skip


def bend_bundle(raw: bytes, dice: random.Random) -> bytes:
    """Bend one line of a bundle: the line, or the payload inside it; or drop, double, move it."""
    lines = raw.splitlines(keepends=True) or [b"\n"]
    at = dice.randrange(len(lines))
    way = dice.random()
    if way < 0.1:
        lines.insert(dice.randrange(len(lines)), lines.pop(at) if dice.random() < 0.5 else lines[at])
    elif way < 0.2:
        del lines[at]
    else:
        lines[at] = _bend_line(lines[at], dice)
    return b"".join(lines)


def _bend_line(line: bytes, dice: random.Random) -> bytes:
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, Refused):
        ((kind, document),) = json.loads(line).items()
        payload = unb64(document["payload"])
        if dice.random() < 0.8:
            carried = {**document, "payload": b64(bend(payload, dice))}
            return canonical({kind: carried}) + b"\n"
    return bend(line.rstrip(b"\n"), dice).replace(b"\n", b"") + b"\n"


TARGETS: dict[str, Target] = {
    "envelope": Target(
        read_envelope,
        lambda: [*vectors("envelopes"), *world().documents(world().sealed()).grants],
    ),
    "policy": Target(read_policy, lambda: vectors("policies")),
    "leaf": Target(read_leaf, lambda: [*vectors("leaves"), *world().lanes[0].raws]),
    "keys": Target(read_keys, lambda: [world().keys_payload], unsigned=True, most=1 << 15),
    "token": Target(
        read_tokens,
        lambda: [encode(_honest(), pair("token")).encode(), canonical(_honest())],
        codes=frozenset(CODES) | TOKEN_CODES,
        unsigned=True,
    ),
    "bundle": Target(
        read_bundle,
        lambda: [*vectors("bundles"), (FROZEN / "job-1.tally").read_bytes()],
        bend=bend_bundle,
        unsigned=True,
        most=1 << 17,
    ),
}


def believe_signatures() -> None:
    """Take every signature for good from now on, in this process: never in one that judges anything."""
    for module in (signing, checkpoint, witness):
        for name in ("verify_ed25519", "verify_ml_dsa_44"):
            setattr(module, name, lambda *_: True)
