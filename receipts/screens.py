"""Screens on what comes back, untrusted input to a model: what was found is recorded, the content is not."""

from collections.abc import Iterable, Sequence

from verifier.chain import Terms
from verifier.conditions import any_glob


def content_type_allowed(content_type: str, allowed: Iterable[Sequence[str]]) -> bool:
    """Compare a media type, without its parameters, with what every policy of a chain allows."""
    plain = content_type.partition(";")[0].strip().lower()
    return all(any_glob(globs, plain) for globs in allowed)


def run(terms: Terms) -> list[str]:
    """Name the screens that a tool's answer goes through, sorted."""
    return ["content-type", "data", *(["injection"] if terms.injection != "off" else []), "size"]
