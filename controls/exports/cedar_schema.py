"""The schema of what Cedar is asked: one call, as conditions read it (specs/exports.md §7).

Arguments, claims, ages and places are named because the policy asks for them; the rest of a call stays out.
"""

from collections.abc import Iterable, Iterator

from controls.exports.cedar_text import text
from verifier.policy import Chain
from verifier.rules import Condition

# A value of any type: one of these, or none of them where Cedar has no such type.
ANY = "{ text?: String, whole?: Long, fraction?: decimal, flag?: Bool }"
LOCAL = "{ hour: Long, minute_of_day: Long, weekday: Long }"
ENTITIES = """\
entity Agent = { id: String };
entity Tool = {
  kind: String,
  server: String,
  name: String,
  class: String,
  sensitivity: String,
  host: String,
  approval: String,
};
entity Model = { provider: String, name: String };
"""
CALL = """\
  job: { id: String, type: String, environment: String, client: String, depth: Long },
  act?: String,
  user?: String,
  gateway?: String,
  token_ttl: Long,
  now: Long,
  staleness: Long,
  labels: Set<String>,
  recent: { calls: Long, denials: Long, first_use?: Bool },
"""
REQUEST = """\
  operation: String,
  max_output_tokens?: Long,
  hosted_tools: Set<String>,
  remote_content: Bool,
  provider_state: Bool,
"""


def schema(chain: Chain) -> str:
    """Write the schema for the calls that a policy and its ancestors are asked about."""
    conditions = [each for policy in chain for when in policy.conditions() for each in when]
    asked = CALL + "".join(f"  {record}: {{ {', '.join(members)} }},\n" for record, members in _records(conditions))
    arguments = f"  args: {{ {', '.join(_members(conditions, 'args', 'Value'))} }},\n"
    return (
        f"type Value = {ANY};\n{ENTITIES}"
        f'action "tool" appliesTo {{ principal: [Agent], resource: [Tool], context: {{\n{asked}{arguments}}} }};\n'
        f'action "model" appliesTo {{ principal: [Agent], resource: [Model], context: {{\n{asked}{REQUEST}}} }};\n'
    )


def _records(conditions: list[Condition]) -> Iterator[tuple[str, list[str]]]:
    yield "claims", _members(conditions, "user", "Value")
    yield "ages", _members(conditions, "age", "Long")
    offsets = sorted({each.offset for each in conditions if each.offset is not None})
    yield "local", [f"{text(each)}: {LOCAL}" for each in offsets]


def _members(conditions: Iterable[Condition], family: str, kind: str) -> list[str]:
    names = {each.attr.partition(".")[2] for each in conditions if each.attr.startswith(family + ".")}
    return [f"{text(each)}?: {kind}" for each in sorted(names - ({"id"} if family == "user" else set()))]
