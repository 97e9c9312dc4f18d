"""What the example model says: the last user message, played as a script.

One instruction a line; other lines are ignored:

    call get_case {"case_id": "CASE-1"}   ask for this tool call; the arguments pass as they stand, default {}
    slow 5                                wait five seconds; a stream waits after its first chunk
    fail 429                              answer with this HTTP status and OpenAI's error shape

A message without `call` gets a sentence, and so does a conversation that ends with a tool's result. Nothing here
reads a clock or draws a random number: the same conversation gets the same answer, ids included.
"""

import hashlib
import re
from collections.abc import Iterator

import msgspec
from msgspec import Struct

CALL = re.compile(r"call[ \t]+(?P<name>\S+)(?:[ \t]+(?P<arguments>\S.*))?")
SLOW = re.compile(r"slow[ \t]+(?P<seconds>\d+(?:\.\d+)?)")
FAIL = re.compile(r"fail[ \t]+(?P<status>[45]\d\d)")


class Part(Struct, omit_defaults=True):
    """One part of a message's content; only text is read."""

    type: str
    text: str = ""


class Message(Struct, omit_defaults=True):
    """One turn of the conversation; the fields that the answer depends on."""

    role: str
    content: str | list[Part] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """Everything that the message says in words."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ToolCall(Struct, frozen=True):
    """A tool call that the model asks for, arguments as text."""

    id: str
    name: str
    arguments: str


class Answer(Struct, frozen=True):
    """What the model says: words or tool calls, and what it counted."""

    id: str
    text: str
    calls: list[ToolCall]
    usage: dict[str, int]

    @property
    def finish_reason(self) -> str:
        """Why the model stopped."""
        return "tool_calls" if self.calls else "stop"


def answer(messages: list[Message]) -> Answer:
    """Play the conversation's script; `messages` is not empty."""
    seed = msgspec.json.encode(messages)
    calls = [] if messages[-1].role == "tool" else list(tool_calls(lines(messages), seed))
    text = "" if calls else sentence(messages)
    said = text + "".join(call.name + call.arguments for call in calls)
    prompt, completion = tokens("".join(message.text() for message in messages)), tokens(said)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return Answer(f"chatcmpl-{fingerprint(seed)}", text, calls, usage)


def delay(messages: list[Message]) -> float:
    """How many seconds the script wants to wait."""
    return sum(float(found["seconds"]) for found in filter(None, map(SLOW.fullmatch, lines(messages))))


def failure(messages: list[Message]) -> int | None:
    """The HTTP status that the script wants to fail with."""
    found = next(filter(None, map(FAIL.fullmatch, lines(messages))), None)
    return None if found is None else int(found["status"])


def lines(messages: list[Message]) -> list[str]:
    """The last user message, line by line."""
    said = (message.text() for message in reversed(messages) if message.role == "user")
    return [line.strip() for line in next(said, "").splitlines()]


def tool_calls(script: list[str], seed: bytes) -> Iterator[ToolCall]:
    """The tool calls of a script, each with an id that only the conversation and its place decide."""
    for index, found in enumerate(filter(None, map(CALL.fullmatch, script))):
        yield ToolCall(f"call_{fingerprint(seed, index)}", found["name"], found["arguments"] or "{}")


def sentence(messages: list[Message]) -> str:
    """The final words, about the tools' results where there are some."""
    results = sum(message.role == "tool" for message in messages)
    return f"The task is done; tool results read: {results}." if results else "There is nothing to do."


def fingerprint(seed: bytes, index: int = 0) -> str:
    """Twenty-four hex digits that name one thing of one conversation."""
    return hashlib.sha256(seed + index.to_bytes(4, "big")).hexdigest()[:24]


def tokens(text: str) -> int:
    """A count that grows with the text: a token for each four bytes begun, at least one."""
    return max(1, -(-len(text.encode()) // 4))
