"""Headers of MCP that repeat what the body says, and must agree with it: a proxy that looks at one acts on the other.

`Mcp-Method`, `Mcp-Name`, `MCP-Protocol-Version`, `Mcp-Param-*` of revision 2026-07-28 (SEP-2243).
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from receipts.request import Request
from verifier.refused import Refused

_PREFIX, _SUFFIX = "=?base64?", "?="
_PARAM = "mcp-param-"


def require_header(request: Request, name: str, expected: str) -> None:
    """Raise `Refused` header-mismatch unless the header says what the body says."""
    said = request.header(name)
    if said is None or _decoded(said) != expected:
        raise Refused("header-mismatch", f"the header {name} does not say what the body says", field=name)


def require_params(request: Request, schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Hold `Mcp-Param-*` against the arguments that the schema marks with `x-mcp-header`.

    Raises `Refused` header-mismatch for one that differs, is missing, or that the schema does not know.
    """
    marked = _marked(schema)
    for header in request.header_names():
        if header.startswith(_PARAM) and header not in marked:
            raise Refused(
                "header-mismatch", "a header names a parameter that the tool's schema does not", field=header[:64]
            )
    for header, name in marked.items():
        if arguments.get(name) is not None:
            require_header(request, header, _text(arguments[name]))
        elif request.header(header) is not None:
            raise Refused("header-mismatch", f"a header for the argument {name}, which the body lacks", field=header)


def param_headers(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, str]:
    """Write `Mcp-Param-*` for the arguments as they are sent on."""
    marked = _marked(schema).items()
    return {header: encoded(_text(arguments[name])) for header, name in marked if arguments.get(name) is not None}


def _marked(schema: Mapping[str, Any]) -> dict[str, str]:
    """Name the arguments that a schema marks with `x-mcp-header`, by header."""
    return {
        f"{_PARAM}{rule['x-mcp-header']}".lower(): name
        for name, rule in schema.get("properties", {}).items()
        if isinstance(rule, dict) and isinstance(rule.get("x-mcp-header"), str)
    }


def encoded(text: str) -> str:
    """Write a value as a header carries it: itself where that is safe, else as base64."""
    if text.isascii() and text.isprintable() and text == text.strip() and not _is_encoded(text):
        return text
    return _PREFIX + base64.b64encode(text.encode()).decode() + _SUFFIX


def _decoded(text: str) -> str:
    if not _is_encoded(text):
        return text
    inside = text[len(_PREFIX) : -len(_SUFFIX)]
    try:
        value = base64.b64decode(inside, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise Refused("header-mismatch", "a header that cannot be decoded") from error
    if base64.b64encode(value.encode()).decode() != inside:
        raise Refused("header-mismatch", "a header in another spelling than the one that base64 has")
    return value


def _is_encoded(text: str) -> bool:
    return text.startswith(_PREFIX) and text.endswith(_SUFFIX)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
