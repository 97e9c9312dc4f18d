"""A document that is not accepted, and why: one exception type, one stable public code."""


class Refused(Exception):  # noqa: N818 - a refusal is an outcome with a code, not a defect of the program
    """A document or a request is refused.

    `code` is public and stable (specs/errors.md); `why` is one sentence without secrets; `hint` says what to do next;
    `field` is the place inside the document, where there is one.
    """

    def __init__(self, code: str, why: str, *, hint: str = "", field: str = "") -> None:
        """Name the refusal."""
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why
        self.hint = hint
        self.field = field
