"""How bundles are bent: a line, a field, a seal, a key list, or the whole gateway."""

import json
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.world import GATEWAY, SECOND, Lane, World, pair
from verifier import bundle, seal
from verifier.checkpoint import sign_head
from verifier.encoding import canonical
from verifier.envelope import seal_up
from verifier.leaf import Target
from verifier.merkle import Tree, leaf_hash

GET_CASE = Target(server="crm-mcp", tool="get_case")
HTTP = Target(server="crm-mcp", tool="http_request")
MODEL = Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions")
Bend = Callable[[dict[str, Any]], Any]


def story() -> World:
    """Play the honest story."""
    return World().story()


def idle(world: World) -> World:
    """Give a world one lane without calls."""
    world.lane().close()
    return world


def lines(world: World) -> list[bytes]:
    """Cut a world's bundle into lines."""
    return world.bundle().splitlines(keepends=True)


def place(written: list[bytes], kind: str) -> int:
    """Find the first line of a kind."""
    return next(i for i, line in enumerate(written) if line.startswith(f'{{"{kind}":'.encode()))


def receipt(written: list[bytes], seq: int) -> int:
    """Find the line of a receipt of the first lane."""
    return place(written, "head") + 1 + seq


def edit(kind: str, change: Callable[[bytes], bytes], world: World | None = None) -> bytes:
    """Change the bytes of one document's line in the honest bundle."""
    written = lines(world or story())
    at = place(written, kind)
    written[at] = bundle.wrap(kind, change(bundle.content(written[at][:-1], kind))) + b"\n"
    return b"".join(written)


def edit_receipt(seq: int, change: Callable[[bytes], bytes]) -> bytes:
    """Change the bytes of one receipt in the honest bundle."""
    written = lines(story())
    at = receipt(written, seq)
    written[at] = change(written[at])
    return b"".join(written)


def bent(payload: bytes, change: Bend) -> bytes:
    """Change a payload's fields and write it canonically again."""
    fields = json.loads(payload)
    change(fields)
    return canonical(fields)


def sealing(world: World, **changes: Any) -> bytes:
    """Write a bundle whose seal says something else."""
    return world.bundle(world.documents(world.sealed(**changes)))


def sealing_lane(world: World, **changes: Any) -> bytes:
    """Write a bundle whose seal says something else of its first lane."""
    honest = world.sealed()
    return sealing(world, lanes=[replace(honest.lanes[0], **changes), *honest.lanes[1:]])


def signed(world: World, **envelopes: Any) -> bytes:
    """Write a bundle with some envelopes replaced."""
    return world.bundle(replace(world.documents(world.sealed()), **envelopes))


def with_keys(**changes: dict[str, Any]) -> World:
    """Make a world whose key list differs in the keys named, and play the story."""
    honest = World().listed.keys
    names = {pair(name).kid: name for name in ("author", "registry", "grant", "seal", "token", "revocation", "gateway")}
    return World(keys=[replace(each, **changes.get(names[each.kid], {})) for each in honest]).story()


def re_signed(world: World, lane: Lane, raws: list[bytes], signer: str = "gateway") -> bundle.Lane:
    """Write a lane with other receipts under a head that a gateway key signs for them."""
    tree = Tree()
    for raw in raws:
        tree.append(leaf_hash(raw))
    origin = seal.origin(GATEWAY, world.job, lane.name)
    note = sign_head(pair(signer), origin, len(raws), tree.root(), closing_at=lane.time // SECOND)
    return bundle.Lane(lane.name, note, raws)


def rewritten(world: World, raws: list[bytes], signer: str = "gateway") -> bytes:
    """Write a bundle whose gateway signed other receipts than scope had sealed."""
    return b"".join(bundle.write(world.documents(world.sealed()), [re_signed(world, world.lanes[0], raws, signer)]))


def grant_bent(change: Bend) -> bytes:
    world = story()
    return signed(world, grants=[seal_up("grant", bent(world.grant_payload, change), pair("grant"))])


def dishonest(change: Callable[[World, Lane], object], **world: Any) -> bytes:
    """Let a dishonest gateway write a lane; scope seals what it is told."""
    made = World(**world)
    lane = made.lane()
    change(made, lane)
    if not lane.closed:
        lane.close()
    return made.bundle()


def with_condition() -> World:
    rule = {
        "kind": "mcp",
        "server": "crm-mcp",
        "tools": ["get_case"],
        "when": [{"attr": "args.query", "op": "prefix", "value": "case-"}],
    }
    world = World(policy={"allowed_tools": [rule]})
    lane = world.lane()
    lane.model("call-1", "get_case")
    lane.tool("call-2")
    lane.close()
    return world
