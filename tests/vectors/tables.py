"""Tables: small inputs and what must come of them, as JSON; for readers who build another implementation."""

import json
from typing import Any

import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from tests.vectors.deciding import chains, facts
from tests.vectors.grammar import GRAMMAR
from tests.world import World, pair
from verifier.commitment import SIDES, call_key, commit, salt, slice_hash
from verifier.conditions import evaluate, glob_matches, holds
from verifier.decision import Allowed, Call, Denied, Held, ModelBody, ModelTarget, Subject, ToolTarget, decide
from verifier.disclosure import Disclosure, check, disclose
from verifier.draft import arguments
from verifier.encoding import b64, canonical, digest, safe_text
from verifier.leaf import Commitment
from verifier.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from verifier.refused import Refused
from verifier.revocation import Heartbeat
from verifier.rules import Condition

GLOBS = (
    ("*", ""),
    ("*", "anything/at:all"),
    ("", ""),
    ("", "a"),
    ("get_case", "get_case"),
    ("get_case", "Get_case"),
    ("get_*", "get_case"),
    ("get_*", "get_"),
    ("get_*", "forget_case"),
    ("*_case", "get_case"),
    ("*_case", "get_cases"),
    ("a*b", "ab"),
    ("a*b", "a/b"),
    ("a*b*c", "aXbYc"),
    ("a*b*c", "acb"),
    ("a*a", "a"),
    ("a**b", "ab"),
    ("*a*", "bab"),
    ("*.example:443", "crm.example:443"),
    ("[a-z]", "a"),
    ("a?c", "abc"),
    ("a.c", "abc"),
)

CONDITIONS: tuple[tuple[str, str, Any, str], ...] = (
    ("args.n", "eq", 1, '{"n":1}'),
    ("args.n", "eq", "1", '{"n":1}'),
    ("args.n", "eq", 1, '{"n":"1"}'),
    ("args.n", "eq", "99.95", '{"n":99.95}'),
    ("args.n", "eq", "99.95", '{"n":99.950}'),
    ("args.n", "eq", 1, '{"n":true}'),
    ("args.n", "eq", True, '{"n":true}'),
    ("args.n", "eq", 1, "{}"),
    ("args.n", "ne", 1, '{"n":2}'),
    ("args.n", "ne", 1, '{"n":"x"}'),
    ("args.n", "ne", 1, "{}"),
    ("args.s", "in", ["a", "b"], '{"s":"b"}'),
    ("args.s", "in", ["a", "b"], '{"s":"c"}'),
    ("args.s", "in", ["a"], '{"s":1}'),
    ("args.s", "not_in", ["a"], '{"s":"b"}'),
    ("args.s", "not_in", ["a"], "{}"),
    ("args.n", "lt", 10, '{"n":9}'),
    ("args.n", "lt", 10, '{"n":10}'),
    ("args.n", "le", 10, '{"n":10}'),
    ("args.n", "gt", "0.1", '{"n":0.10000000000000000000000000000001}'),
    ("args.n", "ge", 10, '{"n":"10"}'),
    ("args.n", "lt", 10, '{"n":1e400}'),
    ("args.n", "le", "9007199254740993", '{"n":9007199254740993}'),
    ("args.n", "between", [1, 5], '{"n":5}'),
    ("args.n", "between", [1, 5], '{"n":5.01}'),
    ("args.n", "between", [1, 5], '{"n":[3]}'),
    ("args.s", "prefix", "case-", '{"s":"case-1"}'),
    ("args.s", "prefix", "case-", '{"s":"Case-1"}'),
    ("args.s", "suffix", ".example", '{"s":"a.example"}'),
    ("args.s", "glob", "a*c", '{"s":"abc"}'),
    ("args.s", "glob", "a*c", '{"s":["abc"]}'),
    ("args.s", "exists", True, '{"s":null}'),
    ("args.s", "exists", True, "{}"),
    ("args.s", "exists", False, "{}"),
    ("args.a.b", "eq", 1, '{"a":{"b":1}}'),
    ("args.a.b", "eq", 1, '{"a":[1]}'),
    ("args.a.b", "exists", False, '{"a":1}'),
    *GRAMMAR,
)

CANONICAL: tuple[Any, ...] = (
    {},
    [],
    {"b": 1, "a": 2},
    {"a": {"d": [], "c": {}}},
    [1, -1, 9007199254740991, -9007199254740991],
    [True, False],
    {"text": 'quote " backslash \\ slash /'},
    {"text": "tab\tnewline\nreturn\rbell\u0007"},
    {"text": "é € 😀"},
    {"text": "\u007f\u2028"},
    {"a.b": 1, "a-b": 2, "aB": 3, "a_b": 4, "A": 5},
)

DECISIONS: tuple[dict[str, Any], ...] = (
    {"server": "crm-mcp", "tool": "get_case"},
    {"server": "crm-mcp", "tool": "search_customer"},
    {"server": "crm-mcp", "tool": "delete_case"},
    {"server": "crm-mcp", "tool": "http_request"},
    {"server": "other-mcp", "tool": "shell"},
    {"server": "tickets-mcp", "tool": "read_ticket"},
    {"server": "crm-mcp", "tool": "get_case", "labels": ["customer_provided"]},
    {"server": "crm-mcp", "tool": "get_case", "labels": ["secrets"]},
    {"server": "crm-mcp", "tool": "get_case", "labels": ["personal_data"]},
    {"server": "crm-mcp", "tool": "get_case", "token_ttl": 901},
    {"provider": "openrouter_via_fal", "model": "small-1", "operation": "chat.completions"},
    {"provider": "other", "model": "small-1", "operation": "chat.completions"},
    {
        "provider": "openrouter_via_fal",
        "model": "small-1",
        "operation": "chat.completions",
        "hosted_tools": ["web_search"],
    },
    {"provider": "openrouter_via_fal", "model": "small-1", "operation": "chat.completions", "remote_content": True},
    {"provider": "openrouter_via_fal", "model": "small-1", "operation": "chat.completions", "provider_state": True},
    {"provider": "openrouter_via_fal", "model": "small-1", "operation": "files.delete"},
)

TEXTS = ("gpt-4.1", "openai/gpt:free", "", "a b", "x" * 128, "x" * 129, "naïve", "line\nbreak", '"quoted"')


def tables() -> dict[str, bytes]:
    """Return every table by file name."""
    made = {
        "globs": [
            {"pattern": pattern, "text": text, "matches": glob_matches(pattern, text)} for pattern, text in GLOBS
        ],
        "conditions": [_condition(*row) for row in CONDITIONS],
        "canonical": [{"value": value, "bytes": canonical(value).decode()} for value in CANONICAL],
        "decisions": [_decision(row) for row in DECISIONS],
        "facts": facts(),
        "chains": chains(),
        "safe-text": [{"text": text, "written": safe_text(text)} for text in TEXTS],
        "commitments": _commitments(),
        "disclosures": _disclosures(),
        "merkle": [_tree(size) for size in range(1, 9)],
        "keys": [
            {"name": name, **json.loads(msgspec.json.encode(pair(name).public)), "kid": pair(name).kid}
            for name in ("root", "gateway")
        ],
        "digests": [
            {"payload": text, "digest": digest(text.encode())} for text in ("", "{}", canonical(_heartbeat()).decode())
        ],
    }
    return {
        f"{name}.json": json.dumps(each, indent=1, ensure_ascii=False).encode() + b"\n" for name, each in made.items()
    }


def _condition(attr: str, op: str, value: Any, text: str) -> dict[str, Any]:
    condition = Condition(attr=attr, op=op, value=value)  # type: ignore[arg-type]
    found = evaluate(condition, {"args": arguments(text.encode())})
    assert holds([condition], {"args": arguments(text.encode())}) is found
    return {"attr": attr, "op": op, "value": value, "arguments": text, "is": found.value}


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    """Decide one call under the honest policy."""
    subject = Subject("agent-1", "orchestrator-1", "job-1", "support", "test")
    labels = tuple(row.get("labels", ()))
    target: ToolTarget | ModelTarget
    if "tool" in row:
        target = ToolTarget(row["server"], row["tool"], "read", "internal", "crm.example", labels)
    else:
        target = ModelTarget(row["provider"], row["model"], row["operation"], labels)
    doors = {name: row[name] for name in ("remote_content", "provider_state") if name in row}
    body = ModelBody(hosted_tools=tuple(row.get("hosted_tools", ())), **doors)
    call = Call(subject=subject, target=target, token_ttl=row.get("token_ttl", 300), time=0, arguments={}, body=body)
    decision = decide((World().policy,), call)
    word = {Allowed: "allow", Held: "hold", Denied: "deny"}[type(decision)]
    reason = {"reason": decision.reason} if isinstance(decision, Denied) else {}
    return {"call": row, "decision": word, "rule": decision.rule, **reason}


def _commitments() -> list[dict[str, Any]]:
    lane_key = bytes(range(32))
    found = []
    for side in SIDES:
        slices = [b"", b"hello", b'{"query":"case-1"}'][: 1 + SIDES.index(side)]
        key = call_key(lane_key, "call-1", side)
        made = commit(key, slices)
        found.append(
            {
                "lane_key": lane_key.hex(),
                "call": "call-1",
                "side": side,
                "call_key": key.hex(),
                "slices": [each.hex() for each in slices],
                "salts": [salt(key, i).hex() for i in range(len(slices))],
                "hashes": [slice_hash(salt(key, i), each).hex() for i, each in enumerate(slices)],
                "n": made.n,
                "root": made.root,
            }
        )
    return found


def _disclosures() -> list[dict[str, Any]]:
    """Disclose each slice of one body, then bend what an attacker would bend."""
    key = call_key(bytes(range(32)), "call-1", "sent")
    slices = [b'{"arguments":{', b'"amount":10.50', b",", b'"to":"a@b.example"', b"}}"]
    committed = commit(key, slices)
    honest = [disclose(key, slices, index, "sent") for index in range(len(slices))]
    one = honest[1]
    bent = {
        "another salt": replace(one, salt=honest[3].salt),
        "a salt of 31 bytes": replace(one, salt=b64(salt(key, 1)[:31])),
        "bytes moved from the next slice": replace(one, content=b64(slices[1] + slices[2])),
        "an index of a neighbour": replace(one, index=2),
        "an index beyond the end": replace(one, index=5),
        "a path cut short": replace(one, path=one.path[:-1]),
        "a path with a hash more": replace(one, path=[*one.path, one.path[0]]),
        "base64 with stray bits": replace(one, content="QR=="),
        "no base64": replace(one, salt="*"),
    }
    cases = [(f"slice {each.index}", each) for each in honest] + list(bent.items())
    return [
        {
            "what": what,
            "commitment": to_builtins(committed),
            "disclosure": to_builtins(each),
            **_disclosed(each, committed),
        }
        for what, each in cases
    ]


def _disclosed(each: Disclosure, committed: Commitment) -> dict[str, str]:
    try:
        return {"content": check(each, committed).decode()}
    except Refused as refused:
        return {"refused": refused.code}


def _tree(size: int) -> dict[str, Any]:
    leaves = [f"leaf {n}".encode() for n in range(size)]
    hashes = [leaf_hash(each) for each in leaves]
    return {
        "leaves": [each.decode() for each in leaves],
        "root": root_of(hashes).hex(),
        "inclusion": [[each.hex() for each in inclusion_proof(hashes, index)] for index in range(size)],
        "consistency": [[each.hex() for each in consistency_proof(hashes, first)] for first in range(1, size + 1)],
    }


def _heartbeat() -> Heartbeat:
    return Heartbeat(iss="https://scope.example", sequence=0, time=0)
