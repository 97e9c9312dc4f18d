"""Showing an artefact readable, whatever it is, and believing none of it (`tally inspect`)."""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from verifier.bundle import content, kind_of
from verifier.encoding import digest, reject_duplicates, unb64
from verifier.refused import Refused

_TIMES = frozenset({
    "time", "issued_at", "expires", "opened", "closed", "not_before", "not_after", "revoked_at",
    "valid_from", "valid_until", "received",
})  # fmt: skip
_TOKEN_PARTS = 3
MAX_SHOWN = 1000
MAX_TEXT = 512


def inspect(raw: bytes) -> dict[str, Any]:
    """Describe bytes: `{"artefact": name, …}`. Raises `Refused` for what is no artefact of ours."""
    if raw.startswith(b'{"header":'):
        return _bundle(raw)
    if raw.startswith(b"c2sp.org/tlog-proof@v1"):
        return {"artefact": "tlog-proof", "text": raw.decode(errors="replace")}
    if raw.count(b".") == _TOKEN_PARTS - 1 and not raw.startswith(b"{"):
        return _token(raw.strip())
    return _json(raw)


def text(shown: dict[str, Any]) -> str:
    """Write a description for people: JSON, indented, with times in words, after a line that says what it is."""
    rest = {name: value for name, value in shown.items() if name != "artefact"}
    return f"{shown['artefact']} (nothing here was verified)\n" + json.dumps(_worded(rest), indent=2)


def _json(raw: bytes) -> dict[str, Any]:
    value = reject_duplicates(raw)
    if not isinstance(value, dict):
        raise Refused("wrong-type", "not an artefact: one JSON object is expected")
    if "payloadType" in value:
        return _envelope(value)
    if "roots" in value and "suites" in value:
        return {"artefact": "pin", "pin": value}
    if "kind" in value and "seq" in value:
        return {"artefact": f"receipt {value['kind']}", "hash": digest(b"\0" + raw.rstrip(b"\n")), "receipt": value}
    return {"artefact": "JSON object", "digest": digest(raw), "value": value}


def _envelope(value: dict[str, Any]) -> dict[str, Any]:
    payload = unb64(str(value.get("payload", "")), field="payload")
    kind = str(value["payloadType"]).removeprefix("application/vnd.tallystick.").removesuffix(".v1+json")
    signers = [each.get("keyid") for each in value.get("signatures", []) if isinstance(each, dict)]
    return {
        "artefact": f"signed {kind}",
        "digest": digest(payload),
        "signers": signers,
        "payload": reject_duplicates(payload),
    }


def _bundle(raw: bytes) -> dict[str, Any]:
    lines: list[Any] = []
    total = 0
    for line in raw.splitlines():
        total += 1
        if len(lines) >= MAX_SHOWN:
            continue
        kind = kind_of(line)
        inner = line if kind is None else content(line, kind)
        lines.append(
            inspect(inner) if kind not in ("header", "head") else {"artefact": kind, "value": reject_duplicates(inner)}
        )
    return {"artefact": "bundle", "lines": total, "shown": lines}


def _token(raw: bytes) -> dict[str, Any]:
    """Show a token's header and claims; its signature is left out, so that what is shown opens nothing."""
    parts = [_unpadded(part) for part in raw.split(b".")]
    return {"artefact": "token", "header": reject_duplicates(parts[0]), "claims": reject_duplicates(parts[1])}


def _unpadded(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error as error:
        raise Refused("bad-base64", "not an artefact that tally knows") from error


def _worded(value: Any, name: str = "") -> Any:
    """Put times into words, and shorten what no person reads."""
    if isinstance(value, dict):
        return {key: _worded(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_worded(each) for each in value]
    if name in _TIMES and isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53:
        return datetime.fromtimestamp(value / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:48]}… ({len(value)} characters)"
    return value
