"""Manifests, grants, seals, revocations."""

from collections.abc import Callable
from typing import Any

from tests.vectors.case import PASS
from tests.vectors.documents.make import ZERO, Make, bend, rows
from tests.world import NOW, World
from verifier.encoding import canonical


def seal_of(world: World) -> bytes:
    """Seal the honest story."""
    return canonical(world.story().sealed())


def manifest(**changes: Any) -> Make:
    """Bend the honest manifest's first tool."""
    return bend(lambda world: world.manifest_payload, lambda it: it["tools"][0].update(changes))


def grant(change: Callable[[dict[str, Any]], Any]) -> Make:
    """Bend the honest grant."""
    return bend(lambda world: world.grant_payload, change)


def revocation(**changes: Any) -> Make:
    """Bend a revocation of the job."""
    return bend(lambda world: canonical(world.revoke("job", world.job, NOW)), lambda it: it.update(changes))


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
    ("approval", "MALFORMED unsupported", "a tool that asks a person", manifest(approval="confirm")),
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
    ("user", "MALFORMED unsupported", "a user", grant(lambda it: it["scope"].update(user="ann"))),
    ("parent", "MALFORMED unsupported", "a narrower grant of another", grant(lambda it: it.update(parent=ZERO))),
    ("binding", "MALFORMED bad-value", "a bound token", grant(lambda it: it["scope"].update(binding="mtls"))),
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
    ("supersedes", "MALFORMED unsupported", "a second seal", bend(seal_of, lambda it: it.update(supersedes=ZERO))),
)

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
    ("sequence", "MALFORMED bad-value", "sequences begin at 1", revocation(sequence=0)),
    ("reason", "MALFORMED bad-value", "a reason in prose", revocation(reason="Something happened")),
)
