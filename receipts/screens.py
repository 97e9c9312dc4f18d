"""Screens on what comes back, untrusted input to a model: what was found is recorded, the content is not."""

import re
from collections.abc import Iterable, Sequence

from verifier.chain import Terms
from verifier.conditions import any_glob

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


def content_type_allowed(content_type: str, allowed: Iterable[Sequence[str]]) -> bool:
    """Compare a media type, without its parameters, with what every policy of a chain allows."""
    plain = content_type.partition(";")[0].strip().lower()
    return all(any_glob(globs, plain) for globs in allowed)


def run(terms: Terms) -> list[str]:
    """Name the screens that a policy and its ancestors run, sorted."""
    return ["content-type", *(["injection"] if terms.injection != "off" else []), "size"]
