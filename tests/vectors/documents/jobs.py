"""Manifests, grants, seals, revocations, approvals."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.vectors.bundles.approvals import approval
from tests.vectors.bundles.costs import TABLE
from tests.vectors.bundles.kinds import REVIEWED
from tests.vectors.case import PASS
from tests.vectors.documents.make import ZERO, Make, bend, rows
from tests.world import NOW, SECOND, World
from verifier.encoding import canonical

FORK: dict[str, Any] = {"code": "inconsistent-head", "lane": "lane-1", "time": NOW + SECOND}
CHILD: dict[str, Any] = {"grant": ZERO, "job": "job-2", "seal": ZERO, "share": {}}


def seal_of(world: World) -> bytes:
    """Seal the honest story."""
    return canonical(world.story().sealed())


def manifest(**changes: Any) -> Make:
    """Bend the honest manifest's first tool."""
    return bend(lambda world: world.manifest_payload, lambda it: it["tools"][0].update(changes))


def whole(change: Callable[[dict[str, Any]], Any]) -> Make:
    """Bend the honest manifest."""
    return bend(lambda world: world.manifest_payload, change)


def grant(change: Callable[[dict[str, Any]], Any]) -> Make:
    """Bend the honest grant."""
    return bend(lambda world: world.grant_payload, change)


def revocation(**changes: Any) -> Make:
    """Bend a revocation of the job."""
    return bend(lambda world: canonical(world.revoke("job", world.job, NOW)), lambda it: it.update(changes))


def prices(**changes: Any) -> Make:
    """Bend the first price of a table."""
    return bend(lambda _: canonical(TABLE), lambda it: it["prices"][0].update(changes))


PRICES = rows(
    ("honest", PASS, "one price of a provider's models", lambda: canonical(TABLE)),
    (
        "empty",
        "MALFORMED bad-value",
        "no price at all",
        bend(lambda _: canonical(TABLE), lambda it: it.update(prices=[])),
    ),
    ("no-model", "MALFORMED bad-prices", "a price of no model", prices(models=[])),
    ("no-operation", "MALFORMED bad-prices", "a price of no operation that there is", prices(operations=["paint"])),
    ("negative", "MALFORMED bad-value", "a price below nothing", prices(input=-1)),
    (
        "fraction",
        "MALFORMED wrong-type",
        "a price that is no integer",
        lambda: canonical(TABLE).replace(b"2000000000", b"0.5"),
    ),
)

MANIFESTS = rows(
    ("honest", PASS, "four tools of a server", lambda: World().manifest_payload),
    (
        "unsorted",
        "MALFORMED bad-manifest",
        "tools out of order",
        bend(lambda world: world.manifest_payload, lambda it: it["tools"].reverse()),
    ),
    ("schema-not-json", "MALFORMED not-json", "a schema that is no JSON", manifest(input_schema="{{")),
    ("schema-not-object", "MALFORMED bad-manifest", "a schema that is no object", manifest(input_schema="[]")),
    (
        "schema-duplicate-key",
        "MALFORMED not-canonical",
        "a key twice in a foreign schema",
        manifest(input_schema='{"a":1,"a":2}'),
    ),
    ("local", PASS, "tools that the runtime runs itself", whole(lambda it: it.pop("url"))),
    (
        "resources-and-prompts",
        PASS,
        "resources by glob, a prompt",
        lambda: canonical(World(manifest=REVIEWED).manifest),
    ),
    (
        "resources-twice",
        "MALFORMED bad-manifest",
        "a resource twice",
        lambda: canonical(replace(World(manifest=REVIEWED).manifest, resources=REVIEWED["resources"] * 2)),
    ),
    (
        "local-with-prompts",
        "MALFORMED bad-manifest",
        "prompts of the runtime",
        lambda: canonical(replace(World(manifest=REVIEWED).manifest, url=None)),
    ),
    (
        "prompt-schema",
        "MALFORMED bad-manifest",
        "a prompt's schema that is no object",
        lambda: canonical(replace(World().manifest, prompts=[replace(REVIEWED["prompts"][0], input_schema="[]")])),
    ),
    ("approval", PASS, "a tool that asks a person", manifest(approval="confirm")),
    ("tier", "MALFORMED bad-value", "a tier that is none of the three", manifest(approval="somebody")),
    ("class", "MALFORMED bad-value", "a class that is none of the four", manifest(tool_class="harmless")),
    (
        "labels-unsorted",
        "MALFORMED bad-manifest",
        "labels out of order",
        manifest(data_classes=["secrets", "internal"]),
    ),
    (
        "url",
        "MALFORMED bad-value",
        "an address that is not HTTP",
        bend(lambda world: world.manifest_payload, lambda it: it.update(url="file:///etc/passwd")),
    ),
)

GRANTS = rows(
    ("honest", PASS, "all that the policy allows on one server", lambda: World().grant_payload),
    ("unsorted", "MALFORMED bad-grant", "tools out of order", grant(lambda it: it["scope"]["tools"].reverse())),
    (
        "twice",
        "MALFORMED bad-grant",
        "a tool twice",
        grant(lambda it: it["scope"]["tools"].insert(0, it["scope"]["tools"][0])),
    ),
    (
        "unpinned-server",
        "MALFORMED bad-grant",
        "a tool of a server without a manifest",
        grant(lambda it: it["scope"].update(manifests={})),
    ),
    ("backwards", "MALFORMED bad-grant", "ends before it begins", grant(lambda it: it.update(expires=it["issued_at"]))),
    (
        "before-its-job",
        "MALFORMED bad-grant",
        "issued before the job opened",
        grant(lambda it: it.update(opened=it["issued_at"] + 1)),
    ),
    (
        "glob",
        "MALFORMED bad-value",
        "tools are exact names",
        grant(lambda it: it["scope"].update(tools=["mcp:crm-mcp/*"])),
    ),
    ("user", PASS, "a user, by a pseudonym", grant(lambda it: it["scope"].update(user="u-1"))),
    (
        "claims",
        PASS,
        "what an identity provider said of the user",
        grant(lambda it: it["scope"].update(user="u-1", claims={"level": 3, "staff": True, "team": "support"})),
    ),
    (
        "claims-of-nobody",
        "MALFORMED bad-grant",
        "claims without a user",
        grant(lambda it: it["scope"].update(claims={"team": "support"})),
    ),
    (
        "claim-of-many-values",
        "MALFORMED wrong-type",
        "a claim is a text, a number or a truth value",
        grant(lambda it: it["scope"].update(user="u-1", claims={"team": ["support"]})),
    ),
    ("parent", PASS, "a narrower grant of another", grant(lambda it: it.update(parent=ZERO))),
    (
        "depth",
        "MALFORMED bad-grant",
        "below the root job, and from no grant",
        grant(lambda it: it["scope"].update(depth=1)),
    ),
    (
        "act",
        "MALFORMED bad-grant",
        "delegated by an agent, and from no grant",
        grant(lambda it: it["scope"].update(act="agent-0")),
    ),
    (
        "too-deep",
        "MALFORMED bad-value",
        "five levels below the root job",
        grant(lambda it: (it["scope"].update(depth=5), it.update(parent=ZERO))),
    ),
    ("binding", PASS, "tokens bound to a client's certificate", grant(lambda it: it["scope"].update(binding="mtls"))),
    ("binding-unknown", "MALFORMED bad-value", "no binding", grant(lambda it: it["scope"].update(binding="rope"))),
)

SEALS = rows(
    ("honest", PASS, "one lane", lambda: seal_of(World())),
    (
        "lane-twice",
        "MALFORMED bad-seal",
        "one lane twice",
        bend(seal_of, lambda it: it["lanes"].append(it["lanes"][0])),
    ),
    (
        "other-origin",
        "MALFORMED bad-seal",
        "another lane's origin",
        bend(seal_of, lambda it: it["lanes"][0].update(origin="gateway.example/tally/job-2/lane-1")),
    ),
    (
        "no-marks",
        "MALFORMED bad-value",
        "a lane that scope never saw",
        bend(seal_of, lambda it: it["lanes"][0].update(marks=[])),
    ),
    (
        "mark-beyond-size",
        "MALFORMED bad-seal",
        "a mark larger than the lane",
        bend(seal_of, lambda it: it["lanes"][0]["marks"][-1].update(size=99)),
    ),
    ("backwards", "MALFORMED bad-seal", "closed before it opened", bend(seal_of, lambda it: it.update(closed=0))),
    (
        "status",
        "MALFORMED bad-value",
        "a status that is none of the four",
        bend(seal_of, lambda it: it.update(status="fine")),
    ),
    (
        "incidents",
        PASS,
        "a fork that scope refused",
        bend(seal_of, lambda it: it.update(incidents=[FORK])),
    ),
    (
        "incidents-unsorted",
        "MALFORMED bad-seal",
        "incidents in another order than they came",
        bend(seal_of, lambda it: it.update(incidents=[FORK | {"time": FORK["time"] + 1}, FORK])),
    ),
    (
        "incident-of-no-lane",
        "MALFORMED bad-seal",
        "an incident of a lane that the seal does not name",
        bend(seal_of, lambda it: it.update(incidents=[FORK | {"lane": "lane-9"}])),
    ),
    ("supersedes", PASS, "a second seal", bend(seal_of, lambda it: it.update(supersedes=ZERO))),
    (
        "interrupted-twice",
        "MALFORMED bad-seal",
        "an interrupted seal that supersedes another",
        bend(seal_of, lambda it: it.update(supersedes=ZERO, status="interrupted")),
    ),
    ("child", PASS, "a child job", bend(seal_of, lambda it: it.update(children=[CHILD]))),
    (
        "child-twice",
        "MALFORMED bad-seal",
        "a child twice",
        bend(seal_of, lambda it: it.update(children=[CHILD, CHILD])),
    ),
    (
        "child-of-itself",
        "MALFORMED bad-seal",
        "a job that is its own child",
        bend(seal_of, lambda it: it.update(children=[CHILD | {"job": "job-1"}])),
    ),
)

TOOL = {"kind": "tool", "value": "crm-mcp/get_case"}

REVOCATIONS = rows(
    ("honest", PASS, "a job is revoked", revocation()),
    ("all", PASS, "the kill switch", revocation(target={"kind": "all", "value": "*"})),
    (
        "all-of-something",
        "MALFORMED bad-value",
        "everything has the value *",
        revocation(target={"kind": "all", "value": "job-1"}),
    ),
    (
        "star",
        "MALFORMED bad-value",
        "only everything has the value *",
        revocation(target={"kind": "job", "value": "*"}),
    ),
    ("kind", "MALFORMED bad-value", "a kind of a later version", revocation(target={"kind": "user", "value": "ann"})),
    (
        "later-kind",
        "MALFORMED bad-value",
        "a kind that there is not",
        revocation(target={"kind": "lane", "value": "a"}),
    ),
    ("user", PASS, "a user, by the grant's pseudonym", revocation(target={"kind": "user", "value": "user-1"})),
    ("key", PASS, "all that a key signed", revocation(target={"kind": "key", "value": "0" * 32})),
    ("key-name", "MALFORMED bad-value", "a key by a name of its own", revocation(target={"kind": "key", "value": "a"})),
    ("until", PASS, "a tool, for an hour", revocation(target=TOOL, until=NOW + 3600 * SECOND)),
    ("until-no-time", "MALFORMED bad-value", "over before it began", revocation(target=TOOL, until=NOW)),
    ("until-job", "MALFORMED bad-value", "a job never begins again", revocation(until=NOW + 3600 * SECOND)),
    (
        "until-key",
        "MALFORMED bad-value",
        "a key is never good again",
        revocation(target={"kind": "key", "value": "0" * 32}, until=NOW + 3600 * SECOND),
    ),
    ("sequence", "MALFORMED bad-value", "sequences begin at 1", revocation(sequence=0)),
    ("reason", "MALFORMED bad-value", "a reason in prose", revocation(reason="Something happened")),
)


def approved(**changes: Any) -> Make:
    """Bend an approval."""
    return bend(lambda world: canonical(approval(world)), lambda it: it.update(changes))


APPROVALS = rows(
    ("honest", PASS, "one person's yes to one call", approved()),
    ("refusal", PASS, "one person's no", approved(verdict="refuse")),
    ("manifest", PASS, "a tool's call names its manifest", approved(manifest=ZERO)),
    ("backwards", "MALFORMED bad-approval", "ends before it is given", approved(expires=NOW)),
    ("verdict", "MALFORMED bad-value", "neither yes nor no", approved(verdict="perhaps")),
    ("condition", "MALFORMED unknown-field", "a yes with a condition that nobody checks", approved(unless="friday")),
    ("hold", "MALFORMED bad-value", "no receipt's hash", approved(hold="call-1")),
)
