"""What scope cannot do now reaches an agent as what it may try again, not as a denial."""

import msgspec
import pytest

from receipts import completion, mcp_answers
from verifier.refused import Refused

CODES = (
    "stale-revocations",
    "scope-unavailable",
    "controls-unavailable",
    "ledger-unavailable",
    "disk-full",
    "clock-stepped",
)


@pytest.mark.parametrize("code", CODES)
def test_what_cannot_be_decided_now_is_no_denial(code: str) -> None:
    assert completion.refusal(Refused(code, "why")).status == 503
    answer = msgspec.json.decode(mcp_answers.refusal(1, Refused(code, "why"), "", None).body)
    assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (-31003, code)
