"""What scope cannot do now reaches an agent as what it may try again, not as a denial."""

import msgspec
import pytest

from receipts import completion, local, mcp_answers
from verifier.refused import Refused

CODES = (
    "stale-revocations",
    "scope-unavailable",
    "controls-unavailable",
    "ledger-unavailable",
    "disk-full",
    "clock-stepped",
    "database-restored",
)


@pytest.mark.parametrize("code", CODES)
def test_what_cannot_be_decided_now_is_no_denial(code: str) -> None:
    model, tool = completion.refusal(Refused(code, "why")), mcp_answers.refusal(1, Refused(code, "why"), "", None)
    local_tool = local.refusal(Refused(code, "why"))
    assert (model.status, local_tool.status) == (503, 503)
    if code != "ledger-unavailable":  # that one waits for a person
        assert {int(each.headers["retry-after"]) > 0 for each in (model, tool, local_tool)} == {True}
    answer = msgspec.json.decode(tool.body)
    assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (-31003, code)
