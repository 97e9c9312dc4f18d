"""A document that is not accepted, and why: one exception type, one stable public code."""

MAX_WHY = 300


class Refused(Exception):  # noqa: N818 - a refusal is an outcome with a code, not a defect of the program
    """A document or a request is refused.

    `code` is public and stable (specs/errors.md); `why` is one sentence without secrets, short and printable
    though it may quote the document; `hint` says what to do next; `field` is the place inside it, where there is one.
    """

    def __init__(self, code: str, why: str, *, hint: str = "", field: str = "") -> None:
        """Name the refusal."""
        self.code = code
        self.why = "".join(each if each.isprintable() else "?" for each in why[:MAX_WHY])
        super().__init__(f"{code}: {self.why}")
        self.hint = hint
        self.field = field
