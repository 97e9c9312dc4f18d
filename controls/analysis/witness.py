"""A call that the solver found: put together, asked of both policies, told in words."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal
from ipaddress import IPv4Address, IPv6Address
from itertools import product
from typing import Any

import msgspec
import z3
from msgspec import Struct

from controls.analysis.patterns import Term, text_of
from controls.analysis.values import Symbols, Value
from verifier.admission import admits
from verifier.decision import (
    Allowed,
    Call,
    Decision,
    Denied,
    Held,
    ModelBody,
    ModelTarget,
    Recency,
    Subject,
    ToolTarget,
    decide,
)
from verifier.policy import Chain
from verifier.refused import Refused
from verifier.rules import TIERS

EXACT = Context(prec=34)
FEW = 64  # ways to fill in lists
NOT_ADMITTED = Denied("jobs", "not-admitted")


class Witness(Struct, frozen=True):
    """A concrete call, in words, and what each policy says of it."""

    call: Call
    words: str
    before: Decision
    after: Decision


def ask(chain: Chain, call: Call) -> Decision:
    """Ask whether a policy is for this job, and then what it says of the call."""
    subject = call.subject
    try:
        admits(chain, agent=subject.agent, job_type=subject.job_type, environment=subject.environment)
    except Refused:
        return NOT_ADMITTED
    return decide(chain, call)


def rank(decision: Decision) -> int:
    """Say how much a decision lets through: 0 nothing, 1 with another person's word, 2 with the user's, 3 at once."""
    if isinstance(decision, Denied):
        return 0
    return 3 - TIERS.index(decision.tier) if isinstance(decision, Held) else 3


def confirmed(model: Any, symbols: Symbols, before: Chain, after: Chain) -> Witness | None:
    """Ask both policies about what the solver found; None when they do not bear it out."""
    for call in _calls(model, symbols, (*before, *after)):
        old, new = ask(before, call), ask(after, call)
        if rank(new) > rank(old):
            return Witness(call, _words(call, symbols, (*before, *after)), old, new)
    return None


def say(decision: Decision) -> str:
    """Tell a decision in words."""
    if isinstance(decision, Denied):
        return f"denies it ({decision.reason}, {decision.rule})"
    by = f"by rule {decision.rule}"
    return f"allows it {by}" if isinstance(decision, Allowed) else f"holds it for tier {decision.tier} {by}"


def _calls(model: Any, symbols: Symbols, policies: Chain) -> Iterator[Call]:
    """Put the call together; a list may have to be filled in several ways."""
    value = _Reader(model, symbols)
    claims = {each.partition(".")[2]: value.of(each) for each in symbols.used() if each.startswith("user.")}
    user = claims.pop("id", None)
    known = {name: each for name, each in claims.items() if each is not None}
    user = user or ("somebody" if known else None)
    subject = Subject(
        value.of("agent.id"), value.of("job.client") or "client", value.of("job.id") or "job", value.of("job.type"),
        value.of("job.environment"), act=value.of("agent.act"), depth=value.of("job.depth") or 0, user=user,
        claims=known, gateway=value.of("gateway.url"),
    )  # fmt: skip
    labels = [label for label, has in symbols.labels.items() if value.true(has)]
    labels += [value.text(symbols.fresh_label)] if value.true(symbols.has_fresh) else []
    common: dict[str, Any] = {
        "subject": subject, "token_ttl": 0, "time": value.of("time.now") or 0,
        "staleness": value.of("gateway.staleness") or 0,
    }  # fmt: skip
    seen = value.of("recent.calls") or 0, value.of("recent.denials") or 0
    if symbols.model:
        body = ModelBody(
            value.of("model.max_output_tokens"),
            tuple(value.text(name) for asked, name in symbols.hosted if value.true(asked)),
            value.true(symbols.remote_content), value.true(symbols.provider_state),
        )  # fmt: skip
        provider, model_name, operation = (value.of(f"model.{name}") for name in ("provider", "name", "operation"))
        target = ModelTarget(provider, model_name, operation, tuple(sorted(labels)))
        yield Call(target=target, body=body, recent=Recency(*seen), **common)
        return
    tool = ToolTarget(
        value.of("tool.server"), value.of("tool.name"), value.of("tool.class"), value.of("tool.sensitivity") or "any",
        value.text(symbols.host), tuple(sorted(labels)), kind=value.text(symbols.kind),  # type: ignore[arg-type]
    )  # fmt: skip
    recent = Recency(*seen, value.of("recent.first_use") or False)
    for arguments in value.arguments(policies):
        yield Call(target=tool, arguments=arguments, recent=recent, **common)


class _Reader:
    """Reads the solver's values as Python's."""

    def __init__(self, model: Any, symbols: Symbols) -> None:
        self._model, self._used, self._addresses = model, symbols.used(), symbols.addresses

    def true(self, term: Term) -> bool:
        return bool(z3.is_true(self._model.eval(term, model_completion=True)))

    def text(self, term: Term) -> str:
        return text_of(self._model.eval(term, model_completion=True))

    def of(self, attr: str) -> Any:
        """Return an attribute's value; None where it is absent or nobody asks for it."""
        value = self._used.get(attr)
        return None if value is None else self._value(attr, value)

    def arguments(self, policies: Chain) -> Iterator[dict[str, Any]]:
        """Give the arguments; where a list is needed, several to try."""
        names = [each for each in self._used if each.startswith("args.")]
        lists = [each for each in names if self.true(self._used[each].is_other) and not _inside(each, names)]
        choices = [_lists(each, policies) for each in lists]
        for tried, chosen in enumerate(product(*choices)):
            if tried == FEW:
                return
            found: dict[str, Any] = {}
            for name in sorted(names):
                filled = dict(zip(lists, chosen, strict=True)).get(name)
                value = filled if filled is not None else self._value(name, self._used[name])
                if value is not None:
                    _put(found, name.split(".")[1:], value)
            yield found

    def _value(self, attr: str, value: Value) -> Any:
        if self.true(value.is_text):
            return self._address(*self._addresses[attr]) if attr in self._addresses else self.text(value.text)
        if self.true(value.is_flag):
            return self.true(value.flag)
        if self.true(value.is_number):
            exact = self._model.eval(value.number, model_completion=True).as_fraction()
            if exact.denominator == 1:
                return int(exact)
            return EXACT.divide(Decimal(exact.numerator), Decimal(exact.denominator))
        return {} if self.true(value.is_other) else None

    def _address(self, ip: Term, six: Term) -> str:
        number = self._model.eval(ip, model_completion=True).as_long()
        return str(IPv6Address(number % (1 << 128)) if self.true(six) else IPv4Address(number % (1 << 32)))


def _inside(name: str, names: list[str]) -> bool:
    return any(each.startswith(name + ".") for each in names)


def _lists(attr: str, policies: Chain) -> list[list[str]]:
    """Give lists to try: of the values that conditions on this argument name, one or two at a time."""
    texts = []
    for each in (each for policy in policies for when in policy.conditions() for each in when if each.attr == attr):
        values = each.value if isinstance(each.value, list) else [each.value]
        texts += [_example(each.op, value) for value in values if isinstance(value, str)]
    texts = sorted(set(texts))[:8]
    return [[], *([each] for each in texts), *([one, other] for one in texts for other in texts if one < other)]


def _example(op: str, value: str) -> str:
    plain = value.replace("*.", "some.")
    return {"host_in": f"https://{plain}/", "email_domain_in": f"somebody@{plain}"}.get(
        op, plain.partition("/0")[0] or "/"
    )


def _put(found: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = found.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        found = inner
    if not (isinstance(found.get(path[-1]), dict) and value == {}):
        found[path[-1]] = value


def _words(call: Call, symbols: Symbols, policies: Chain) -> str:
    """Tell a call: what is called, by whom, with what — as far as one of the policies asks."""
    target = call.target
    parts = [
        f"{target.server}/{target.tool}" if isinstance(target, ToolTarget) else f"{target.provider}/{target.model}"
    ]
    if isinstance(target, ToolTarget):
        parts.append(f"({target.tool_class})" if target.kind == "mcp" else f"({target.kind}, {target.tool_class})")
        if isinstance(call.arguments, dict) and call.arguments:
            parts.append("with " + _listed(call.arguments))
        if any(policy.egress.hosts != ["*"] for policy in policies):
            parts.append(f"at host {target.host}")
    elif isinstance(call.body, ModelBody):
        parts.append(f"for {target.operation}")
        parts += [f"running {', '.join(call.body.hosted_tools)}"] if call.body.hosted_tools else []
        parts += ["with remote content"] if call.body.remote_content else []
        parts += ["with the provider's memory"] if call.body.provider_state else []
    parts += [f"labelled {', '.join(target.labels)}"] if target.labels else []
    return " ".join((*parts, *_facts(call, symbols, policies)))


def _listed(values: Mapping[str, Any]) -> str:
    shown = {
        name: str(each) if isinstance(each, Decimal) else msgspec.json.encode(each, enc_hook=str).decode()
        for name, each in values.items()
    }
    return ", ".join(f"{name} = {each}" for name, each in shown.items())


def _facts(call: Call, symbols: Symbols, policies: Chain) -> Iterator[str]:
    subject, used = call.subject, symbols.used()
    asked = {each.attr for policy in policies for when in policy.conditions() for each in when}
    for name, value, globs in (
        ("agent", subject.agent, [policy.jobs.agents for policy in policies]),
        ("job type", subject.job_type, [policy.jobs.types for policy in policies]),
        ("environment", subject.environment, [policy.jobs.environments for policy in policies]),
    ):
        attr = {"agent": "agent.id", "job type": "job.type"}.get(name, "job.environment")
        if any(each != ["*"] for each in globs) or attr in asked:
            yield f"by {name} {value}"
    if any(each.startswith(("time.", "age.")) for each in asked) and isinstance(call.time, int):
        yield f"at {datetime.fromtimestamp(call.time // 1_000_000 % (1 << 37), UTC):%Y-%m-%d %H:%M:%S} UTC"
    if "user.id" in used or subject.claims:
        yield f"for user {subject.user} ({_listed(subject.claims)})"
    if isinstance(call.recent, Recency) and any(each.startswith("recent.") for each in asked):
        yield f"after {call.recent.calls} calls and {call.recent.denials} denials"
