"""How a test says that something is refused: by its public code, and where it stands."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from verifier.codes import CODES
from verifier.refused import Refused


@contextmanager
def refused(code: str, field: str | None = None) -> Iterator[None]:
    """Expect a refusal with this code (a listed one) and, where it is given, at this field."""
    assert code in CODES
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.code == code, caught.value
    assert caught.value.why
    if field is not None:
        assert caught.value.field == field
