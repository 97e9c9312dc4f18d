"""Sealed payloads. HPKE draws fresh randomness, so all are bent from those that are frozen."""

import json
from collections.abc import Callable
from typing import Any

from tests.vectors.case import FROZEN, PASS
from tests.vectors.documents.make import Make, rows
from verifier.encoding import b64, canonical, unb64


def _box(change: Callable[[dict[str, Any]], object] = lambda _: None, *, forged: bool = False) -> Make:
    """Bend a frozen box, or what it is opened with."""

    def made() -> bytes:
        frozen = json.loads((FROZEN / "box.json").read_bytes())
        given = {name: frozen[name] for name in ("commitment", "seed")} | {"box": frozen["forged" if forged else "box"]}
        change(given)
        return canonical(given)

    return made


def _sealed(change: Callable[[bytes], bytes]) -> Make:
    """Bend what was encrypted."""
    return _box(lambda it: it["box"].update(ciphertext=b64(change(unb64(it["box"]["ciphertext"])))))


BOXES = rows(
    ("honest", PASS, "opens with the auditor's key, and holds what the receipt commits to", _box()),
    ("other-key", "INCOMPLETE wrong-recipient", "another auditor's key", _box(lambda it: it.update(seed="ff" * 32))),
    ("altered", "FAIL wrong-box", "one bit of it is another", _sealed(lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]))),
    ("encapsulated-key", "FAIL wrong-box", "one bit of its key is another", _sealed(lambda raw: b"\0" + raw[1:])),
    ("cut", "FAIL wrong-box", "shorter than any sealed payload", _sealed(lambda raw: raw[:100])),
    (
        "other-side",
        "FAIL wrong-box",
        "moved to another side of its call",
        _box(lambda it: it["box"].update(side="dlv")),
    ),
    (
        "other-receipt",
        "FAIL wrong-box",
        "moved to another receipt, which commits to another body",
        _box(lambda it: it["commitment"].update(root="sha256:" + "0" * 64)),
    ),
    (
        "other-body",
        "FAIL wrong-box",
        "sealed for its receipt, it holds another body than that commits to",
        _box(forged=True),
    ),
    (
        "other-number",
        "FAIL wrong-box",
        "a receipt that commits to as many slices as it likes",
        _box(lambda it: it["commitment"].update(n=4)),
    ),
    ("no-side", "MALFORMED bad-value", "a side that no call has", _box(lambda it: it["box"].update(side="both"))),
    ("base64", "MALFORMED bad-base64", "not base64", _box(lambda it: it["box"].update(ciphertext="?"))),
)
