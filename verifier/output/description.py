"""An artefact's description for people: one line that says what it is, then a table; nothing in it was verified."""

from collections.abc import Iterator
from typing import Any

from verifier.report import many
from verifier.terminal import table
from verifier.times import words

MAX_ROWS, MAX_TEXT = 400, 200
_NANO = 1_000_000_000
_SECONDS = 1_000_000
_TIMES = frozenset({
    "time", "issued_at", "expires", "opened", "closed", "not_before", "not_after", "revoked_at",
    "valid_from", "valid_until", "received",
})  # fmt: skip
_TIMES_IN_SECONDS = frozenset({"iat", "exp", "nbf"})
# What one line says of an artefact: fields of its payload, receipt or value, by path; `#` counts.
_FACTS = {
    "header": ("job", "suite"),
    "signed keys": ("issuer", "version", "keys#", "expires"),
    "signed policy": ("policy_name", "serial", "issuer", "valid_until"),
    "signed prices": ("name", "serial", "prices#", "issuer"),
    "signed manifest": ("server", "serial", "tools#", "issuer"),
    "signed grant": ("scope.job", "scope.agent", "scope.tools#", "scope.models#", "expires"),
    "signed revocation": ("sequence", "target.kind", "target.value", "time", "reason"),
    "signed approval": ("verdict", "approver", "time", "hold"),
    "signed seal": ("job", "status", "lanes#", "children#", "closed"),
    "receipt open": ("gateway", "build"),
    "receipt token": ("jti", "exp"),
    "receipt begin": ("call", "target", "rule"),
    "receipt end": ("call", "status", "code", "tool_calls#", "usage.input", "usage.output"),
    "receipt deny": ("call", "target", "by", "code", "rule"),
    "receipt hold": ("call", "target", "tier", "rule"),
    "receipt note": ("code", "count"),
    "receipt close": ("reason", "counts.begin", "counts.deny"),
    "head": ("lane", "size"),
    "tlog-proof": ("index", "hashes", "tree.origin", "tree.size"),
    "disclosure": ("side", "index"),
    "box": ("side", "auditor"),
    "report": ("file", "verdict", "job", "findings#"),
    "unreadable": ("why",),
}
_INSIDE = ("payload", "receipt", "value")


def write(shown: dict[str, Any]) -> str:
    """Write a description."""
    name = shown["artefact"]
    lines = [f"{name} (nothing here was verified)"]
    rest = {key: value for key, value in shown.items() if key != "artefact"}
    if "shown" in rest:
        return "\n".join(lines + _lines(rest))
    inside: Any = next((rest.pop(part) for part in _INSIDE if part in rest), {})
    rows = [[path, said] for path, said in (*_flat(rest), *_flat(inside)) if path]
    lines += table(rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        lines.append(f"  and {many(len(rows) - MAX_ROWS, 'more row')}: --json shows all")
    return "\n".join(lines)


def says(shown: dict[str, Any]) -> str:
    """Say in one line what an artefact says."""
    inside: Any = next((shown[name] for name in _INSIDE if name in shown), shown)
    found = (_fact(inside, path) for path in _FACTS.get(shown["artefact"], ()))
    return ", ".join(said for said in found if said)


def _lines(rest: dict[str, Any]) -> list[str]:
    """Write a bundle: what it holds, its lanes, then line by line."""
    rows = [["lines", str(rest["lines"])]]
    rows += [[kind, str(count)] for kind, count in rest.get("kinds", {}).items()]
    rows += [["stopped", rest["stopped"]]] if "stopped" in rest else []
    lines = table(rows)
    if lanes := rest.get("lanes"):
        lines += [
            "",
            *table([["lane", "line", "receipts"], *([str(value) for value in each.values()] for each in lanes)]),
        ]
    listed = [
        [str(each.get("line", number)), each["artefact"], says(each)]
        for number, each in enumerate(rest["shown"], start=1)
    ]
    lines += ["", *table([["line", "what", "says"], *listed])]
    left = rest["lines"] - len(listed)
    return [*lines, f"  and {many(left, 'more line')}"] if left > 0 else lines


def _fact(value: Any, path: str) -> str:
    name, counted = path.rstrip("#"), path.endswith("#")
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    last = name.rpartition(".")[2]
    if counted:
        return many(len(value), last.removesuffix("s").replace("_", " ")) if isinstance(value, list) and value else ""
    if isinstance(value, dict):
        return "/".join(str(each) for each in value.values())[:MAX_TEXT]
    if isinstance(value, int):
        return f"{last.replace('_', ' ')} {_said(last, value)}"
    return "" if value is None else _said(last, value)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """List every value with its path, times and money in words."""
    name = path.rpartition(".")[2]
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        for number, each in enumerate(value):
            yield from _flat(each, f"{path}.{number}")
    elif isinstance(value, list):
        yield path, ", ".join(_said(name, each) for each in value) or "(none)"
    else:
        yield path, _said(name, value)


def _said(name: str, value: Any) -> str:
    """Put a value into words."""
    if isinstance(value, bool) or value is None or value == {}:
        return (
            {True: "yes", False: "no", None: "null"}.get(value, "(none)") if not isinstance(value, dict) else "(none)"
        )
    if isinstance(value, int) and name in _TIMES:
        return words(value)
    if isinstance(value, int) and name in _TIMES_IN_SECONDS:
        return words(value * _SECONDS)
    if isinstance(value, int) and name.endswith("nano_usd"):
        return f"${value // _NANO}.{value % _NANO:09}"
    said = str(value)
    return said if len(said) <= MAX_TEXT else f"{said[:48]}… ({len(said)} characters)"
