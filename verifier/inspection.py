"""Showing an artefact readable, whatever it is, and believing none of it (`tally inspect`).

A bundle is read as a stream, in bounded memory; anything else is small. What opens something is never shown: a token's
signature, a seed.
"""

import base64
import binascii
from collections import Counter
from typing import Any, BinaryIO

from verifier.bundle import BLOCK, MAX_BYTES, Reader, kind_of
from verifier.checkpoint import PROOF, Checkpoint, Proof
from verifier.encoding import b64, digest, reject_duplicates, unb64
from verifier.refused import Refused

MAX_ARTEFACT = 1 << 22
# Of a bundle: so many lines, so many bytes of them, and so many lanes are shown; all are counted.
MAX_SHOWN, MAX_SHOWN_BYTES, MAX_LANES = 1000, 1 << 22, 1000
_TOKEN_PARTS = 3
_ED25519_SIGNATURE, _TIME = 64, 8
_PROOF64 = base64.b64encode(PROOF.encode())[:24]
_SECRET = ("seed", "secret", "private_key")


def inspect(source: BinaryIO, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Describe what a stream holds: `{"artefact": name, …}`. Raises `Refused` for what is no artefact of ours."""
    start = source.read(BLOCK)
    whole = _Again(start, source)
    if start.startswith(b'{"header":'):
        return _bundle(whole, limit)
    raw = _all(whole)
    if raw.count(b"\n{") and raw.startswith(b"{"):
        lines = [line for line in raw.split(b"\n") if line]
        return {
            "artefact": "JSON lines",
            "lines": len(lines),
            "shown": [inspect_one(each) for each in lines[:MAX_SHOWN]],
        }
    return inspect_one(raw)


def inspect_one(raw: bytes) -> dict[str, Any]:
    """Describe one artefact that is no bundle."""
    if raw.startswith(_PROOF64):
        raw = _unpadded(raw.strip())
    if raw.startswith(PROOF.encode()):
        return _proof(raw)
    if b"\n\n\xe2\x80\x94 " in raw and not raw.startswith(b"{"):
        return {"artefact": "checkpoint", **_checkpoint(raw.decode(errors="replace"))}
    if raw.count(b".") == _TOKEN_PARTS - 1 and not raw.startswith(b"{"):
        return _token(raw.strip())
    return _json(raw)


class _Again:
    """A stream whose beginning was read already."""

    def __init__(self, start: bytes, source: BinaryIO) -> None:
        """Take the beginning and the rest."""
        self._start, self._source = start, source

    def read(self, size: int) -> bytes:
        """Read the beginning first."""
        start, self._start = self._start, b""
        return start or self._source.read(size)


def _all(source: _Again) -> bytes:
    raw = b""
    while block := source.read(BLOCK):
        raw += block
        if len(raw) > MAX_ARTEFACT:
            raise Refused(
                "too-large", f"no bundle, and more than {MAX_ARTEFACT} bytes", hint="Check which file was given."
            )
    return raw


def _json(raw: bytes) -> dict[str, Any]:
    try:
        value = reject_duplicates(raw)
    except Refused as refused:
        why = f"no artefact that tally knows: {refused.why}"
        raise Refused(refused.code, why, hint="tally inspect --help names them.") from refused
    if not isinstance(value, dict):
        raise Refused("wrong-type", "no artefact that tally knows: one JSON object is expected")
    if "payloadType" in value:
        return _envelope(value)
    if len(value) == 1 and (wrapped := _wrapped(value)):
        return wrapped
    for name, fields in _KNOWN:
        if fields <= set(value):
            return {"artefact": name, "value": _harmless(value)}
    if "kind" in value and "seq" in value:
        return {"artefact": f"receipt {value['kind']}", "hash": digest(b"\0" + raw.rstrip(b"\n")), "receipt": value}
    return {"artefact": "JSON object", "digest": digest(raw), "value": _harmless(value)}


_KNOWN = (
    ("pin", {"roots", "suites"}),
    ("report", {"verdict", "findings", "totals"}),
    ("disclosure", {"content", "index", "path", "salt", "side"}),
    ("box", {"auditor", "ciphertext", "side"}),
    ("policy draft", {"wpc_version", "policy_name"}),
)


def _wrapped(value: dict[str, Any]) -> dict[str, Any] | None:
    """Describe one line of a bundle: its only key says what is inside."""
    kind, inside = next(iter(value.items()))
    if kind in {"disclosure", "box", "header"} and isinstance(inside, dict):
        return {"artefact": kind, "value": inside}
    if kind == "head" and isinstance(inside, dict):
        return {"artefact": "head", "lane": inside.get("lane"), **_checkpoint(str(inside.get("note", "")))}
    if kind == "log" and isinstance(inside, str):
        return _proof(inside.encode())
    return _envelope(inside) if isinstance(inside, dict) and "payloadType" in inside else None


def _envelope(value: dict[str, Any]) -> dict[str, Any]:
    payload = unb64(str(value.get("payload", "")), field="payload")
    kind = str(value["payloadType"]).removeprefix("application/vnd.tallystick.").removesuffix(".v1+json")
    signatures = value.get("signatures")
    signers = (
        [each.get("keyid") for each in signatures if isinstance(each, dict)] if isinstance(signatures, list) else []
    )
    return {
        "artefact": f"signed {kind}",
        "digest": digest(payload),
        "signers": signers,
        "payload": _harmless(reject_duplicates(payload)),
    }


def _checkpoint(note: str) -> dict[str, Any]:
    """Describe a signed note that is a tree head."""
    head = Checkpoint.parse(note)
    signatures = [
        {"name": line.name, "key_id": line.key_id.hex(), "type": "ed25519"}
        if len(line.signature) == _ED25519_SIGNATURE
        else {
            "name": line.name, "key_id": line.key_id.hex(), "type": "ml-dsa-44",
            "time": int.from_bytes(line.signature[:_TIME], "big") * 1_000_000,
        }
        for line in head.lines
    ]  # fmt: skip
    return {"origin": head.origin, "size": head.size, "root": b64(head.root), "signatures": signatures}


def _proof(raw: bytes) -> dict[str, Any]:
    """Describe a tlog-proof: which leaf, of which tree."""
    proof = Proof.parse(raw.decode(errors="replace"))
    try:
        extra: Any = inspect_one(proof.extra)
    except Refused:
        extra = proof.extra.decode(errors="replace")
    head = _checkpoint(proof.note)
    return {"artefact": "tlog-proof", "index": proof.index, "hashes": len(proof.hashes), "extra": extra, "tree": head}


def _bundle(source: _Again, limit: int) -> dict[str, Any]:
    """Describe a bundle line by line; a line that cannot be read is said to be so, and the next one is read."""
    reader = Reader(source, limit)  # type: ignore[arg-type] # all that it needs is `read`
    kinds: Counter[str] = Counter()
    lanes: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    made: dict[str, Any] = {"artefact": "bundle"}
    size = 0
    try:
        while (raw := reader.line()) is not None:
            kind = kind_of(raw)
            kinds[kind or "receipt"] += 1
            size += len(raw)
            line = _line(raw) if len(shown) < MAX_SHOWN and size < MAX_SHOWN_BYTES else None
            if line is not None:
                shown.append({"line": reader.number, **line})
            if kind == "head":
                lanes.append({"lane": (line or {}).get("lane"), "line": reader.number, "receipts": 0})
                del lanes[MAX_LANES:]
            elif kind is None and kinds["head"] == len(lanes) > 0:
                lanes[-1]["receipts"] += 1
    except Refused as refused:
        made["stopped"] = f"{refused.code}: {refused.why}"
    return made | {"lines": reader.number, "kinds": dict(kinds), "lanes": lanes, "shown": shown}


def _line(raw: bytes) -> dict[str, Any]:
    try:
        return inspect_one(raw)
    except Refused as refused:
        return {"artefact": "unreadable", "why": f"{refused.code}: {refused.why}"}


def _token(raw: bytes) -> dict[str, Any]:
    """Show a token's header and claims; its signature is left out, so that what is shown opens nothing."""
    parts = [_unpadded(part) for part in raw.split(b".")]
    return {"artefact": "token", "header": reject_duplicates(parts[0]), "claims": reject_duplicates(parts[1])}


def _unpadded(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error as error:
        raise Refused("bad-base64", "not an artefact that tally knows") from error


def _harmless(value: Any) -> Any:
    """Leave out what opens something."""
    if isinstance(value, dict):
        return {
            name: "(left out)" if name.endswith(_SECRET) and isinstance(each, str) else _harmless(each)
            for name, each in value.items()
        }
    return [_harmless(each) for each in value] if isinstance(value, list) else value
