"""The one grammar of numbers, hosts, URLs, e-mail, paths and IP addresses in conditions (specs/conditions.md §4).

Two parsers that disagree about a text are how a limit is got around, so only what every parser reads alike is read at
all: the rest is None, and a condition on it is missing. Nothing here goes back over a text; every length is bounded.
"""

import re
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from sys import getsizeof

MAX_DIGITS = 34
MAX_BITS = 113  # 10^34 has as many
MAX_SIZE = 1 << 14  # in memory, of a number that may still be one
MAX_URL = 2048
MAX_HOST = 253
MAX_LOCAL = 64
MAX_PATH = 4096
MAX_ADDRESS = 45
MAX_PORT = 65_535
MAX_OFFSET = 14 * 60
ROOT: tuple[str, ...] = ()

_NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_decimal = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch  # RFC 8259 §6, not Python's own
_label = re.compile(r"[a-z0-9-]{1,63}").fullmatch
_port = re.compile(r"[1-9][0-9]{0,4}").fullmatch
_rest = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*").fullmatch  # RFC 3986 §2, one # below
_atom = re.compile(r"[A-Za-z0-9_'+-]+").fullmatch
_component = re.compile(r"[ -$&-.0-\[\]-~]+").fullmatch  # printable ASCII without % / and backslash
_offset = re.compile(r"[+-][0-9]{2}:[0-5][0-9]").fullmatch
_UPPER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def number(value: object) -> Decimal | None:
    """Read an exact decimal of at most 34 digits from an integer, parsed JSON number or policy's string; else None."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if _huge(value) or (isinstance(value, str) and not _decimal(value)):
        return None
    try:
        exact = Decimal(value)
    except InvalidOperation:
        return None
    if not exact.is_finite() or len(exact.as_tuple().digits) > MAX_DIGITS or abs(exact.adjusted()) > MAX_DIGITS:
        return None
    return exact


def _huge(value: int | Decimal | str) -> bool:
    """Tell without looking at its digits that a number has far too many of them."""
    if isinstance(value, int):
        return value.bit_length() > MAX_BITS
    return isinstance(value, Decimal) and getsizeof(value) > MAX_SIZE


def host(text: str) -> str | None:
    """Read a DNS name in small letters: two labels or more, no punycode, no trailing dot, nothing like an address."""
    if len(text) > MAX_HOST:
        return None
    name = text.translate(_UPPER)
    labels = name.split(".")
    if len(labels) < 2 or not "a" <= labels[-1][:1] <= "z":  # noqa: PLR2004 - a bare word is no host
        return None
    return name if all(map(_plain, labels)) else None


def _plain(label: str) -> bool:
    """Tell whether this is an ASCII label that stands for itself: `xn--` and its like stand for something else."""
    return bool(_label(label)) and label[0] != "-" != label[-1] and label[2:4] != "--"


def url_host(text: str) -> tuple[str, int | None] | None:
    """Read host and written port of an absolute http or https URL; after them comes a slash or nothing."""
    scheme, separator, after = text.partition("://")
    if len(text) > MAX_URL or not separator or scheme not in {"http", "https"}:
        return None
    authority, _, rest = after.partition("/")
    return host_and_port(authority) if _rest(rest) and rest.count("#") <= 1 else None


def host_and_port(text: str) -> tuple[str, int | None] | None:
    """Read `host` or `host:port`."""
    name, colon, digits = text.partition(":")
    found = host(name)
    if found is None or not colon:
        return None if found is None else (found, None)
    return (found, int(digits)) if _port(digits) and int(digits) <= MAX_PORT else None


def email_domain(text: str) -> str | None:
    """Read the domain of one bare e-mail address: no name, comment, quote, source route or list around it."""
    local, _, domain = text.partition("@")
    return host(domain) if len(local) <= MAX_LOCAL and all(map(_atom, local.split("."))) else None


def path_parts(text: str) -> tuple[str, ...] | None:
    """Read an absolute path that means what it says: no empty, dotted or encoded component, no backslash, ASCII."""
    if text == "/":
        return ROOT
    first, *parts = text[: MAX_PATH + 1].split("/")
    return tuple(parts) if len(text) <= MAX_PATH and not first and parts and all(map(_stable, parts)) else None


def _stable(component: str) -> bool:
    """Tell whether a component is one name everywhere; some systems drop a dot or a space at its end."""
    return bool(_component(component)) and component[-1] not in ". " and component[0] != " "


def address(text: str) -> Address | None:
    """Read an IP address written as RFC 5952 or as four decimal numbers, and no other way; none that embeds another."""
    if len(text) > MAX_ADDRESS or "%" in text:
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and (found.ipv4_mapped or found.sixtofour or found.teredo or found in _NAT64):
        return None
    return found if str(found) == text else None


def network(text: str) -> Network | None:
    """Read a CIDR block in its one form, without host bits."""
    if "%" in text:
        return None
    try:
        found = ip_network(text, strict=True)
    except ValueError:
        return None
    return found if str(found) == text else None


def host_pattern(text: str) -> str | None:
    """Read a policy's `example.com` (itself alone) or `*.example.com` (what lies under it), in small letters."""
    name = text.removeprefix("*.")
    return text if host(name) == name else None


def host_port_pattern(text: str) -> tuple[str, int | None] | None:
    """Read a host pattern with the port that a URL then has to state."""
    found = host_and_port(text.removeprefix("*."))
    if found is None or host(found[0]) != found[0] or text.translate(_UPPER) != text:
        return None
    return ("*." if text.startswith("*.") else "") + found[0], found[1]


def offset_minutes(text: str) -> int | None:
    """Read an offset from UTC, `+hh:mm` or `-hh:mm`, of at most 14 hours; `-00:00` is none (RFC 3339 §4.3)."""
    if not _offset(text) or text == "-00:00":
        return None
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    if minutes > MAX_OFFSET:
        return None
    return -minutes if text[0] == "-" else minutes
