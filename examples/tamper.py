"""Five ways to spoil an honest bundle; each must be found out by name."""

import re
from collections.abc import Iterator
from pathlib import Path

from verifier.signing import KeyPair


def flip_time(raw: bytes) -> bytes:
    """Change one digit of one receipt's time."""
    lines = raw.split(b"\n")
    at = next(n for n, line in enumerate(lines) if b'"kind":"begin"' in line)
    lines[at] = re.sub(
        rb'("time":\d+)(\d)}', lambda found: found[1] + (b"1" if found[2] != b"1" else b"2") + b"}", lines[at]
    )
    return b"\n".join(lines)


def drop_receipt(raw: bytes) -> bytes:
    """Leave one receipt out."""
    lines = raw.split(b"\n")
    at = next(n for n, line in enumerate(lines) if b'"kind":"deny"' in line or b'"kind":"end"' in line)
    return b"\n".join([*lines[:at], *lines[at + 1 :]])


def remove_seal(raw: bytes) -> bytes:
    """Leave the seal out."""
    return b"\n".join(line for line in raw.split(b"\n") if not line.startswith(b'{"seal":'))


def truncate(raw: bytes) -> bytes:
    """Cut the file off in the middle of its last line."""
    return raw[:-40]


def another_root(pin: Path) -> bytes:
    """Pin another root than the installation's."""
    public = KeyPair(b"\1" * 32, b"\2" * 32).public
    text = re.sub(r'"ed25519":\s*"[^"]+"', f'"ed25519": "{public.ed25519}"', pin.read_text())
    return re.sub(r'"ml_dsa_44":\s*"[^"]+"', f'"ml_dsa_44": "{public.ml_dsa_44}"', text).encode()


SPOILT = {
    "flipped-time": (flip_time, 1, "wrong-root"),
    "dropped-receipt": (drop_receipt, 1, "wrong-size"),
    "no-seal": (remove_seal, 3, "no-seal"),
    "truncated": (truncate, 2, "truncated"),
}


def spoil_all(bundle: Path, pin: Path) -> Iterator[tuple[Path, Path, int, str]]:
    """Write every spoilt copy beside the bundle; yield it with its pin, the exit status and the code that must come."""
    honest = bundle.read_bytes()
    for name, (spoil, status, code) in SPOILT.items():
        spoilt = bundle.with_name(f"{name}.tally")
        spoilt.write_bytes(spoil(honest))
        yield spoilt, pin, status, code
    other = bundle.with_name("other-pin.json")
    other.write_bytes(another_root(pin))
    yield bundle, other, 4, "unknown-root"
