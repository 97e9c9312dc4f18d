"""Requests of the model path, in OpenAI's shape: read by an allowlist, side doors named, written again.

A model is named `provider/model`, or plainly where the grant knows a single provider.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from receipts.body import encode, read_json, sliced
from receipts.call import Asked, Known
from receipts.labelling import Labelled
from receipts.sessions import Session
from receipts.upstream import Upstream
from verifier.conditions import any_glob
from verifier.decision import ModelBody, ModelTarget
from verifier.encoding import safe_text
from verifier.leaf import Reservation, Target, Usage
from verifier.refused import Refused

CHAT, EMBEDDINGS = "chat.completions", "embeddings"
PATHS = {CHAT: "/chat/completions", EMBEDDINGS: "/embeddings"}
STATE = frozenset({"store", "previous_response_id", "conversation"})
FIELDS = {
    CHAT: STATE | {
        "audio", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages",
        "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction", "presence_penalty",
        "prompt_cache_key", "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop",
        "stream", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    },
    EMBEDDINGS: frozenset({"dimensions", "encoding_format", "input", "model", "user"}),
}  # fmt: skip
MESSAGE = frozenset({
    "annotations", "audio", "content", "function_call", "name", "reasoning", "reasoning_content", "reasoning_details",
    "refusal", "role", "tool_call_id", "tool_calls",
})  # fmt: skip
PARTS = frozenset({"text", "refusal", "image_url", "input_audio", "file"})
LIMITS = ("max_completion_tokens", "max_tokens")
# Where the grant limits tokens and nobody said how long an answer may be.
MAX_OUTPUT_TOKENS = 16_384
MAX_COUNT = 1 << 31


class ModelProvider(Struct, frozen=True, kw_only=True):
    """A provider of models as the operator configured it; `api_key` is known here and nowhere else."""

    base_url: str
    api_key: str
    operations: frozenset[str]


class ModelRequest(Struct, frozen=True):
    """A request as read. `wants_usage`: the caller asked for the usage of its stream itself."""

    body: dict[str, Any]
    stream: bool
    wants_usage: bool


def read_request(raw: bytes, operation: str) -> ModelRequest:
    """Read a request by the operation's allowlist. Raises `Refused`: the reading codes, unknown-field, bad-value."""
    body = read_json(raw)
    if not isinstance(body, dict):
        raise _bad("the body is not a JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    for name in body.keys() - FIELDS[operation]:
        raise Refused("unknown-field", f"the gateway does not know the field {name[:64]!r}", field=safe_text(name))
    _typed(body, "model", str)
    stream, options = body.get("stream", False), body.get("stream_options", {})
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise _bad("stream is true or false, stream_options an object", "stream")
    return ModelRequest(body, stream, bool(options.get("include_usage")))


def ask(
    request: ModelRequest,
    labelled: Labelled,
    operation: str,
    session: Session,
    known: Known,
    *,
    providers: Mapping[str, ModelProvider],
    upstream: Upstream,
) -> Asked:
    """Turn a request, its body `labelled`, into what is decided about and what would be sent. Raises `Refused`."""
    name, model = _split(request.body["model"], session)
    known.target = target = Target(provider=name, model=model, operation=operation)
    provider = providers.get(name)
    if provider is None or operation not in provider.operations:
        raise Refused("unknown-model", f"this gateway has no {operation} of that provider", field="model")
    url = provider.base_url.rstrip("/") + PATHS[operation]
    upstream.require_reachable(url)
    body = {**labelled.value, "model": model}
    known.labels = labelled.labels
    decided = ModelTarget(name, model, operation, tuple(labelled.labels))
    limits = session.scope.limits
    limited = limits.tokens is not None or limits.cost_nano_usd is not None
    doors = _chat(body, session, decided, limited=limited) if operation == CHAT else _embeddings(body)
    if request.stream:
        body["stream_options"] = {**body.get("stream_options", {}), "include_usage": True}
    slices = _slices(body, operation)
    most = Usage(input=sum(map(len, slices)), output=doors.max_output_tokens or 0)
    return Asked(
        target=target,
        decided=decided,
        body=doors,
        slices=slices,
        reservation=Reservation(
            cost_nano_usd=None if limits.cost_nano_usd is None else _cost(target, most, session),
            tokens=None if limits.tokens is None else most.input + most.output,
        ),
        redactions=labelled.redactions,
        url=url,
        headers={
            "Authorization": f"Bearer {provider.api_key}",
            "Accept": "text/event-stream" if request.stream else "application/json",
        },
    )


def _cost(target: Target, most: Usage, session: Session) -> int:
    """Compute what a call may cost at most. Raises `Refused` no-price."""
    cost = None if session.prices is None else session.prices.cost(target, most)
    if cost is None:
        why = "what this job's calls may cost is limited, and the policy's price table does not name this model"
        raise Refused("no-price", why, field="model", hint="Ask the policy's author for a table that names it.")
    return cost


def _split(named: str, session: Session) -> tuple[str, str]:
    """Find provider and model. Raises `Refused`: bad-value for a name that no receipt holds, unknown-model."""
    if safe_text(named) != named:
        raise _bad("a model's name is made of letters, digits and _ . : / -", "model")
    providers = {pattern.partition("/")[0] for pattern in session.scope.models}
    first, _, rest = named.partition("/")
    if first in providers and rest:
        return first, rest
    if len(providers) == 1:
        return providers.pop(), named
    raise Refused(
        "unknown-model", "name the model as provider/model, of a provider that the grant names", field="model"
    )


def _chat(body: dict[str, Any], session: Session, target: ModelTarget, *, limited: bool) -> ModelBody:
    """Name the side doors of a chat request, and give it the policy's maximum where it has none."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise _bad("messages is a list of objects", "messages")
    for unknown in {name for message in messages for name in message.keys() - MESSAGE}:
        raise Refused(
            "unknown-field", f"the gateway does not know the field {unknown[:64]!r} of a message", field="messages"
        )
    if not isinstance(prediction := body.get("prediction", {}), dict):
        raise _bad("prediction is an object", "prediction")
    choices = _count(body, "n") or 1
    asked = {most for name in LIMITS if (most := _count(body, name)) is not None}
    if len(asked) > 1:
        raise _bad("max_tokens and max_completion_tokens differ", "max_tokens")
    most = asked.pop() if asked else _allowance(session, target, choices, limited=limited)
    if most is not None and not any(name in body for name in LIMITS):
        body["max_completion_tokens"] = most
    parts = list(_parts([*messages, prediction]))
    return ModelBody(
        max_output_tokens=None if most is None else most * choices,
        hosted_tools=tuple(sorted(_hosted(body))),
        remote_content=any(_is_remote(part) for part in parts),
        provider_state=any(body.get(name) for name in STATE) or any("audio" in message for message in messages),
    )


def _allowance(session: Session, target: ModelTarget, choices: int, *, limited: bool) -> int | None:
    """Find the longest answer that every rule about this model allows."""
    rules = [
        rule.max_output_tokens
        for policy in session.chain
        for rule in policy.model_egress.models
        if rule.provider == target.provider
        and rule.max_output_tokens is not None
        and any_glob(rule.models, target.model)
        and any_glob(rule.operations, target.operation)
    ]
    if rules:
        return max(1, min(rules) // choices)
    return MAX_OUTPUT_TOKENS if limited else None


def _parts(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Go through the parts of all contents. Raises `Refused` unknown-field for a kind that nobody reviewed."""
    for message in messages:
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise _bad("a message's content is text or a list of parts", "messages")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if not isinstance(kind, str) or kind not in PARTS or not part.keys() <= {"type", kind}:
                raise Refused(
                    "unknown-field", "a part of a message of a kind that the gateway does not know", field="messages"
                )
            yield part


def _is_remote(part: Mapping[str, Any]) -> bool:
    """Tell whether the provider would fetch something to read this part: some fetch wherever an address stands."""
    kind = part["type"]
    if kind in {"text", "refusal"}:
        return False
    inside = part.get(kind)
    if kind == "image_url":
        image = inside if isinstance(inside, dict) else {"url": inside}
        return not (image.keys() <= {"url", "detail"} and _is_inline(image.get("url"), bare=False))
    name, others = ("data", {"format"}) if kind == "input_audio" else ("file_data", {"filename"})
    return not (isinstance(inside, dict) and inside.keys() <= {name, *others} and _is_inline(inside.get(name)))


def _is_inline(content: Any, *, bare: bool = True) -> bool:
    """Tell whether this is the content itself: a `data:` URI, or base64, in which no address can be written."""
    return isinstance(content, str) and (content.startswith("data:") or (bare and ":" not in content))


def _embeddings(body: Mapping[str, Any]) -> ModelBody:
    """Let texts and tokens through, and nothing that names a place to fetch from; embeddings know no side door."""
    given = body.get("input")
    each: list[Any] = given if isinstance(given, list) else [given]
    if not (_all(each, str) or _all(each, int) or (_all(each, list) and all(_all(one, int) for one in each))):
        raise _bad("input is a text, a list of texts, or tokens", "input")
    return ModelBody()


def _all(values: list[Any], kind: type) -> bool:
    return all(type(value) is kind for value in values)


def _hosted(body: Mapping[str, Any]) -> set[str]:
    """Name the tools that the provider would run by itself."""
    tools = body.get("tools", [])
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("type"), str) for tool in tools
    ):
        raise _bad("tools is a list of objects with a type", "tools")
    named = {tool["type"] for tool in tools} - {"function"}
    return named | ({"web_search"} if "web_search_options" in body else set())


def _slices(body: Mapping[str, Any], operation: str) -> list[bytes]:
    """Cut a chat into its messages and an embedding into its texts; a list of tokens stays whole."""
    if operation == CHAT:
        return sliced(body, "messages")
    texts = body.get("input")
    cut = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    return sliced(body, "input") if cut else [encode(body)]


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_COUNT):
        raise _bad(f"{name} is a positive integer", name)
    return value


def _typed(body: Mapping[str, Any], name: str, kind: type) -> None:
    if not isinstance(body.get(name), kind):
        raise _bad(f"{name} is missing or of the wrong type", name)


def _bad(why: str, field: str = "") -> Refused:
    return Refused("bad-value", why, field=field)
