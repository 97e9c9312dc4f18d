"""Screens on what comes back, untrusted input to a model: what was found is recorded, the content is not."""

import re
from collections.abc import Sequence

from verifier.conditions import any_glob
from verifier.policy import Responses

# Characters that a person does not see and a model reads; emoji's own joiner and selector are left out.
_SIGNS = {
    "tag-text": re.compile("[\U000e0000-\U000e007f]"),
    "bidi-text": re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"),
    "invisible-text": re.compile(
        "[\u00ad\u180e\u200b\u200c\u2060-\u2064\ufe00-\ufe0e\ufeff\uffa0\U000e0100-\U000e01ef]"
    ),
}


def injection(text: bytes) -> list[str]:
    """Name the signs of hidden text in UTF-8, sorted; JSON of ours never escapes them."""
    if text.isascii():
        return []
    content = text.decode("utf-8", "replace")
    return sorted(name for name, sign in _SIGNS.items() if sign.search(content))


def content_type_allowed(content_type: str, allowed: Sequence[str]) -> bool:
    """Compare a media type without its parameters."""
    return any_glob(allowed, content_type.partition(";")[0].strip().lower())


def run(responses: Responses) -> list[str]:
    """Name the screens that a policy runs, sorted."""
    return ["content-type", *(["injection"] if responses.injection != "off" else []), "size"]
