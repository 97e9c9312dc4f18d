"""What is looked at when an operator asks what is wrong with an installation (specs/operating.md §8).

Each check gives what it found wrong, and nothing when all is well; what cannot be looked at is a finding too. Nothing
is repaired, and no private key is read but that of the client who asks.
"""

from typing import Literal

from msgspec import Struct

Level = Literal["warning", "failure"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong: `check` found it of `subject`; `says` is a sentence, `do` what to do about it."""

    check: str
    level: Level
    subject: str
    says: str
    do: str
