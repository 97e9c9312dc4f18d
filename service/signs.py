"""Signs that a text means to steer a model: hidden text, orders, and text in disguise (specs/receipts.md §7).

Read by the gateway in what tools return, and by the registry in how servers describe their tools. Signs, not proof: a
report about such attacks shows them too.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any

import re2

# Characters that a person does not see and a model reads; emoji's own joiner and selector are left out.
_HIDDEN = {
    "tag-text": re.compile("[\U000e0000-\U000e007f]"),
    "bidi-text": re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"),
    "invisible-text": re.compile(
        "[\u00ad\u180e\u200b\u200c\u2060-\u2064\ufe00-\ufe0e\ufeff\uffa0\U000e0100-\U000e01ef]"
    ),
}
_ALL = r"(?:(?:all|any|the|your|these|those|of)\s+){0,3}"
_ORDERS = (
    rf"\b(?:ignore|disregard|forget|override)\s+{_ALL}(?:previous|prior|above|earlier|preceding|foregoing|system)\s+\w+",
    r"\b(?:do not|don.t|never|without) (?:tell|inform|mention|notify|alert)(?:ing)? (?:this |it )?(?:to )?the user",
    r"<\s*/?\s*(?:system|important|instructions?|assistant)\s*>",
    r"\[/?INST\]|<\|(?:im_start|im_end|system|user|assistant|endoftext)\|>",
    r"\byou (?:must|should|have to) (?:now |first )?(?:call|use|invoke|run) (?:the )?[\w./-]+ (?:tool|function)",
    r"\b(?:before|after|instead of) (?:using|calling|invoking) (?:this|any|another|other) tools?\b",
    r"\b(?:new|updated|real|hidden) (?:system )?instructions?\s*:",
    r"\byou are (?:now|no longer) (?:an? |the )?(?:\w+ ){0,3}(?:assistant|mode|agent|model|dan)\b",
    r"\b(?:reveal|print|repeat|send|output) (?:me )?(?:your|the) (?:system|developer|initial) (?:prompt|message)",
)
_BLOB = re2.compile(r"[A-Za-z0-9+/]{400,}|[A-Za-z0-9_-]{400,}")
_MAX_BLOBS, _MAX_BLOB = 8, 4096
_PRINTABLE = 0.97
_options = re2.Options()
_options.case_sensitive = False
_orders = re2.Set.SearchSet(_options)
for _each in _ORDERS:
    _orders.Add(_each)
_orders.Compile()


def signs(texts: Iterable[str]) -> list[str]:
    """Name the signs in some texts, sorted."""
    found: set[str] = set()
    for text in texts:
        if not text.isascii():
            found.update(name for name, sign in _HIDDEN.items() if sign.search(text))
        if _orders.Match(text):
            found.add("instructions")
        if _has_blob(text):
            found.add("encoded-text")
    return sorted(found)


def strings(value: Any) -> Iterator[str]:
    """Give every text of a JSON value, names of members too; its depth is the reader's to bound."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield name
            yield from strings(member)
    elif isinstance(value, list):
        for member in value:
            yield from strings(member)


def _has_blob(text: str) -> bool:
    """Tell whether base64 in a text decodes to text: pictures and archives do not."""
    if len(text) < 400:  # noqa: PLR2004 - the shortest that is looked at
        return False
    blobs = (match.group() for number, match in enumerate(_BLOB.finditer(text)) if number < _MAX_BLOBS)
    return any(_is_text(blob[:_MAX_BLOB]) for blob in blobs)


def _is_text(blob: str) -> bool:
    try:
        content = base64.urlsafe_b64decode(blob[: len(blob) // 4 * 4].replace("+", "-").replace("/", "_"))
    except binascii.Error:
        return False
    printable = sum(each in b"\t\n\r" or 32 <= each < 127 for each in content)  # noqa: PLR2004 - ASCII
    return printable >= _PRINTABLE * len(content)
