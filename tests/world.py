"""A whole signed world in memory: roots, keys, policy, manifest, grant, lanes, seal, bundle, all from fixed seeds.

`World()` is honest. A test bends one thing (a field, a key, a receipt) and asks the verifier what it says.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from dilithium_py.ml_dsa import ML_DSA_44
from msgspec.structs import replace

from verifier import bundle, leaf, seal
from verifier.admission import expand, subject_of
from verifier.approval import Approval
from verifier.audit import verify
from verifier.box import Box, commit_boxes
from verifier.checkpoint import ML_DSA_44_TYPE, key_id, proof, sign_head, subtree_message
from verifier.commitment import call_key, commit
from verifier.draft import build, read_draft
from verifier.encoding import b64, canonical, digest
from verifier.envelope import seal_up
from verifier.fold import Fold
from verifier.grant import Budget, Grant, Scope
from verifier.keys import Key, KeyList, Pin, Root
from verifier.leaf import (
    Begin,
    Close,
    Counts,
    Deny,
    End,
    Facts,
    Hold,
    Leaf,
    Open,
    Parent,
    Reservation,
    Target,
    Token,
    ToolCall,
    Usage,
)
from verifier.manifest import Manifest, Tool
from verifier.merkle import EMPTY, Tree, inclusion_proof, leaf_hash, root_of
from verifier.policy import DAY, Policy
from verifier.prices import Prices
from verifier.report import Report
from verifier.revocation import Revocation
from verifier.revocation import Target as RevocationTarget
from verifier.signing import SUITE, KeyPair

NOW = 1_790_000_000_000_000
SECOND = 1_000_000
SCOPE, GATEWAY, AUTHOR, REGISTRY = (
    "https://scope.example",
    "https://gateway.example",
    "security-team",
    "https://controls.example",
)
MINIMAL = Path(__file__).parent.parent / "examples" / "policies" / "minimal.json"
SCHEMA = '{"type":"object","properties":{"query":{"type":"string"}}}'


@cache
def pair(name: str) -> KeyPair:
    """Make the key of a name: always the same, and it signs deterministically, so that vectors are reproducible."""
    first, second = (hashlib.sha256(f"tally test {half} {name}".encode()).digest() for half in ("ed25519", "ml-dsa-44"))
    secret = ML_DSA_44.key_derive(second)[1]
    return KeyPair(first, second, ml_dsa_44=cache(lambda message: ML_DSA_44.sign(secret, message, deterministic=True)))


def key(name: str, use: str, owner: str, **changes: Any) -> Key:
    """List a key as the key list does."""
    public = pair(name).public
    made = Key(
        kid=pair(name).kid, use=use, owner=owner, ed25519=public.ed25519, ml_dsa_44=public.ml_dsa_44,
        not_before=NOW - DAY, not_after=NOW + 365 * DAY,
    )  # fmt: skip
    return replace(made, **changes)


def root(name: str, owner: str) -> Root:
    """List a root key."""
    public = pair(name).public
    return Root(owner=owner, ed25519=public.ed25519, ml_dsa_44=public.ml_dsa_44 or "")


def log_proof(entry: bytes, seconds: int, log: str = "log", **cosigners: int) -> str:
    """Prove that a log had an entry by a time; cosigners, by the name of their key, each with their own time."""
    origin = "log.example/seals"
    hashes = [leaf_hash(b"another entry"), leaf_hash(entry)]
    root_hash = root_of(hashes)
    note = sign_head(pair(log), origin, len(hashes), root_hash, closing_at=seconds)
    for name in sorted(cosigners, key=lambda each: pair(each).kid):
        line, time = f"{name}.example", cosigners[name]
        ident = key_id(line, ML_DSA_44_TYPE, pair(name).raw[1])
        signature = pair(name).ml_dsa_44(subtree_message(line, time, origin, len(hashes), root_hash))
        note += f"— {line} {b64(ident + time.to_bytes(8, 'big') + signature)}\n"
    return proof(entry, 1, inclusion_proof(hashes, 1), note)


@dataclass
class Lane:
    """One lane as an honest gateway writes it; times grow by a millisecond a receipt."""

    world: "World"
    name: str = "lane-1"
    time: int = NOW + SECOND
    raws: list[bytes] = field(default_factory=list)
    lane_key: bytes = bytes(32)
    behind: dict[int, list[bytes]] = field(default_factory=dict)  # lines behind a receipt, by its place

    def __post_init__(self) -> None:
        """Write the first receipts: open, token."""
        world = self.world
        self.tree = Tree()
        self.fold = Fold.of((world.policy,), world.grant.scope.limits, world.grant.opened, world.prices)
        self.kinds: dict[str, int] = {}
        self.closed = False
        self.write(lambda seq, time: Open(
            build="test", gateway=GATEWAY, job=world.job, keys=digest(world.keys_payload),
            keys_version=world.listed.version,lane=self.name, policy=world.policy_digest,
            revocations=0, seq=seq, suite=SUITE, time=time,
        ))  # fmt: skip
        self.write(lambda seq, time: Token(
            exp=world.exp, grant=world.grant_digest, iat=world.iat, jti=world.jti,
            scope_hash=world.grant.scope.hash(), seq=seq, time=time,
        ))  # fmt: skip

    def write(self, make: Callable[[int, int], Leaf]) -> Leaf:
        """Append one receipt."""
        self.time += 1000
        made = make(len(self.raws), self.time)
        raw = leaf.encode(made)
        self.raws.append(raw)
        self.tree.append(leaf_hash(raw))
        self.fold.add(made)
        self.kinds[made.kind] = self.kinds.get(made.kind, 0) + 1
        return made

    def begin(self, call: str, target: Target, **changes: Any) -> Leaf:
        """Begin a call; tools name the oldest tool call that a model asked for."""
        manifest = self.world.grant.scope.manifests.get(target.server or "")
        seq = len(self.raws)
        parent = self.fold.model_calls.find(target.tool, seq) if target.tool else None
        made = Begin(
            call=call, facts=Facts(labels=self.world.labels(target)), jti=self.world.jti,
            manifest=manifest, parent=parent, req=self.commit(call, "req"), reservation=Reservation(),
            revocations=0, rule="allow-1" if target.server else "model-1",
            sent=self.commit(call, "sent"), seq=seq, staleness=1000, target=target, time=0,
        )  # fmt: skip
        return self.write(lambda seq, time: replace(made, seq=seq, time=time, **changes))

    def end(self, call: str, **changes: Any) -> Leaf:
        """End a call well."""
        made = End(
            call=call, dlv=self.commit(call, "dlv"), flags=[],labels=[],
            recv=self.commit(call, "recv"), redactions=0,
            screens=["size"], seq=0, status="ok", time=0, tool_calls=[],
        )  # fmt: skip
        return self.write(lambda seq, time: replace(made, seq=seq, time=time, **changes))

    def model(self, call: str, *asked: str) -> None:
        """One whole model call whose answer asks for tools."""
        self.begin(call, Target(provider="openrouter_via_fal", model="small-1", operation="chat.completions"))
        self.end(
            call,
            model="small-1",
            tool_calls=[ToolCall(id=f"{call}-{n}", name=name) for n, name in enumerate(asked)],
            usage=Usage(input=10, output=5),
        )

    def tool(self, call: str, name: str = "get_case", **changes: Any) -> None:
        """One whole tool call."""
        self.begin(call, Target(server="crm-mcp", tool=name), **changes)
        self.end(call)

    def deny(self, call: str, target: Target | None, **changes: Any) -> Leaf:
        """Deny a call, as the policy does for `http_request`."""
        made = Deny(
            by="policy", call=call, code="denied-tool", facts=Facts(labels=self.world.labels(target)),
            jti=self.world.jti,
            manifest=self.world.grant.scope.manifests.get(target.server or "") if target else None,
            req=self.commit(call, "req"),
            revocations=0, rule="deny-1", seq=0, staleness=1000, target=target, time=0,
        )  # fmt: skip
        return self.write(lambda seq, time: replace(made, seq=seq, time=time, **changes))

    def hold(self, call: str, target: Target, **changes: Any) -> Leaf:
        """Hold a call for people; it names what a begin would name."""
        parent = self.fold.model_calls.find(target.tool, len(self.raws)) if target.tool else None
        made = Hold(
            call=call, facts=Facts(labels=self.world.labels(target)), jti=self.world.jti,
            manifest=self.world.grant.scope.manifests.get(target.server or ""), parent=parent,
            req=self.commit(call, "req"), revocations=0, rule="allow-1", sent=self.commit(call, "sent"), seq=0,
            staleness=1000, target=target, tier="human", time=0,
        )  # fmt: skip
        return self.write(lambda seq, time: replace(made, seq=seq, time=time, **changes))

    def close(self, reason: str = "closed") -> None:
        """Write the last receipt."""
        counts = {name: self.kinds.get(name, 0) for name in ("begin", "deny", "end", "note", "token")}
        self.write(lambda seq, time: Close(counts=Counts(**counts), reason=reason, seq=seq, time=time))
        self.closed = True

    def commit(self, call: str, side: Any) -> leaf.Commitment:
        """Commit to some body."""
        return commit(call_key(self.lane_key, call, side), [f"{call} {side}".encode()])

    def boxed(self, *boxes: Box) -> leaf.Commitment:
        """Put sealed payloads behind the next receipt; return what it has to say of them."""
        self.behind.setdefault(len(self.raws), []).extend(bundle.wrap("box", canonical(each)) for each in boxes)
        return commit_boxes(boxes)

    def lines(self) -> list[bytes]:
        """Return the receipts, each followed by what stands behind it."""
        return [line for seq, raw in enumerate(self.raws) for line in (raw, *self.behind.get(seq, ()))]

    def head(self, signer: str = "gateway") -> str:
        """Sign the lane's head, a closing one when it is closed."""
        closing = self.time // SECOND if self.closed else None
        origin = seal.origin(GATEWAY, self.world.job, self.name)
        return sign_head(
            pair(signer), origin, len(self.raws), self.tree.root() if self.raws else EMPTY, closing_at=closing
        )


class World:
    """An honest installation with one job. Keyword arguments replace fields of the documents before they are signed."""

    def __init__(
        self, *, policy: dict[str, Any] | None = None,
        scope: dict[str, Any] | None = None, grant: dict[str, Any] | None = None,
        tools: list[Tool] | None = None, keys: list[Key] | None = None, listed: dict[str, Any] | None = None,
        job: str = "job-1", above: Sequence[dict[str, Any]] = (), prices: Prices | None = None,
        manifest: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.job, self.jti = job, "token-1"
        self.installed: dict[str, Any] = {
            "policy": policy, "tools": tools, "keys": keys, "listed": listed, "above": above,
            "prices": prices, "manifest": manifest,
        }  # fmt: skip
        self.iat, self.exp = NOW // SECOND, NOW // SECOND + 300
        self.listed = replace(self._key_list(), **(listed or {}))
        if keys is not None:
            self.listed = replace(self.listed, keys=keys)
        self.keys_payload = canonical(self.listed)
        self.chain = self._chain([policy or {}, *above])
        self.policy, self.policy_payload = self.chain[0], canonical(self.chain[0])
        self.policy_digest = digest(self.policy_payload)
        self.manifest = replace(self._manifest(tools), **(manifest or {}))
        self.manifest_payload = canonical(self.manifest)
        self.prices = prices
        self.prices_payload = None if prices is None else canonical(prices)
        self.grant = self._grant(scope or {}, grant or {})
        self.grant_payload = canonical(self.grant)
        self.grant_digest = digest(self.grant_payload)
        self.lanes: list[Lane] = []
        self.revocations: list[Revocation] = []
        self.key_lists: list[bytes] = []  # earlier ones, in envelopes
        self.roots: list[str] = ["root"]  # who signs the last one
        self.grants_above: list[bytes] = []  # of the jobs that delegated this one
        self.narrower: list[Grant] = []  # more grants of this job
        self.children: list[World] = []
        self.approvals: list[Approval] = []
        self.superseded: seal.Seal | None = None
        self.log: str | None = None

    def rotate(self, *roots: str, **changes: Any) -> "World":
        """Issue the next key list, before any lane is opened; the roots named sign it."""
        self.key_lists.append(seal_up("keys", self.keys_payload, *map(pair, self.roots)))
        self.listed = replace(self.listed, **({"version": self.listed.version + 1} | changes))
        self.keys_payload = canonical(self.listed)
        self.roots = list(roots) or self.roots
        return self

    def delegate(self, job: str = "job-2", agent: str = "agent-2", **scope: Any) -> "World":
        """Open a child job for another agent, with all that this one may do."""
        mine, grant = self.grant.scope, scope.pop("grant", {})
        narrowed = {
            "agent": agent, "act": mine.agent if agent != mine.agent else None, "depth": mine.depth + 1,
            "tools": mine.tools, "models": mine.models, "limits": mine.limits,
        }  # fmt: skip
        child = World(**self.installed, job=job, scope=narrowed | scope, grant={"parent": self.grant_digest} | grant)
        child.grants_above = [*self.grants_above, self.grant_payload]
        self.children.append(child)
        return child

    def approve(self, held: Leaf, raw: bytes, approver: str = "approver-1", **changes: Any) -> Approval:
        """Approve a held call, as an approver's client does; the key bears the approver's name."""
        assert isinstance(held, Hold)
        made = Approval(
            approver=approver, commitment=held.sent, expires=held.time + 60 * SECOND,
            hold="sha256:" + leaf_hash(raw).hex(), job=self.job, manifest=held.manifest, policy=self.policy_digest,
            time=held.time + 500, verdict="approve",
        )  # fmt: skip
        made = replace(made, **changes)
        self.approvals.append(made)
        return made

    def lane(self, name: str = "lane-1") -> Lane:
        """Open a lane."""
        made = Lane(self, name)
        self.lanes.append(made)
        return made

    def story(self) -> "World":
        """Play a short honest job: two model calls, two tool calls, a denial, a close."""
        lane = self.lane()
        lane.model("call-1", "get_case", "crm-mcp__search_customer")
        lane.tool("call-2")
        lane.tool("call-3", "search_customer")
        lane.deny("call-4", Target(server="crm-mcp", tool="http_request"))
        lane.model("call-5")
        lane.close()
        return self

    def labels(self, target: Target | None) -> list[str]:
        """Name the labels that the manifest gives a tool."""
        tool = self.manifest.tool(target.tool) if target and target.tool else None
        return tool.data_classes if tool else []

    def revoke(self, kind: str, value: str, time: int, until: int | None = None) -> Revocation:
        """Revoke something."""
        made = Revocation(
            iss=SCOPE,
            sequence=len(self.revocations) + 1,
            time=time,
            target=RevocationTarget(kind, value),
            reason="incident",
            actor="responder",  # type: ignore[arg-type]
            until=until,
        )
        self.revocations.append(made)
        return made

    def sealed(self, **changes: Any) -> seal.Seal:
        """Say what scope would seal; what an interrupted seal said of a lane is kept."""
        kept = {lane.lane: lane.marks for lane in self.superseded.lanes} if self.superseded else {}
        lanes = [
            seal.SealedLane(
                lane=lane.name, origin=seal.origin(GATEWAY, self.job, lane.name), gateway=GATEWAY,
                kid=pair("gateway").kid, size=len(lane.raws),
                root="sha256:" + lane.tree.root().hex(), share=self.grant.scope.limits,
                tokens=[seal.SealedToken(jti=self.jti, grant=self.grant_digest, iat=self.iat, exp=self.exp)],
                marks=[
                    *kept.get(lane.name, [seal.Mark(time=NOW + SECOND, size=0)]),
                    seal.Mark(time=lane.time + SECOND, size=len(lane.raws)),
                ],
            )
            for lane in sorted(self.lanes, key=lambda lane: lane.name)
        ]  # fmt: skip
        made = seal.Seal(
            iss=SCOPE, job=self.job, policy=self.policy_digest, keys=digest(self.keys_payload),
            grants=[self.grant_digest, *(digest(canonical(each)) for each in self.narrower)],
            status="complete", opened=self.grant.opened,
            closed=max([lane.time for lane in self.lanes], default=NOW) + 2 * SECOND, lanes=lanes,
            children=sorted((child.as_child() for child in self.children), key=lambda each: each.job),
            revocations=[digest(canonical(each)) for each in self.revocations],
            supersedes=None if self.superseded is None else digest(canonical(self.superseded)),
        )  # fmt: skip
        return replace(made, **changes)

    def as_child(self) -> seal.Child:
        """Say what the parent's seal says of this job."""
        sealed = digest(canonical(self.sealed()))
        return seal.Child(job=self.job, grant=self.grant_digest, seal=sealed, share=self.grant.scope.limits)

    def documents(self, sealed: seal.Seal | None) -> bundle.Documents:
        """Sign everything."""
        policies = sorted(map(canonical, self.chain), key=digest)
        grants = sorted(
            [*self.grants_above, self.grant_payload, *map(canonical, self.narrower)],
            key=lambda each: (Grant.parse(each).issued_at, digest(each)),
        )
        approvals = sorted(self.approvals, key=lambda each: digest(canonical(each)))
        superseded = self.superseded
        return bundle.Documents(
            job=self.job, suite=SUITE, keys=seal_up("keys", self.keys_payload, *map(pair, self.roots)),
            policies=[seal_up("policy", each, pair("author"), pair("registry")) for each in policies],
            manifests=[seal_up("manifest", self.manifest_payload, pair("registry"))],
            grants=[seal_up("grant", each, pair("grant")) for each in grants],
            revocations=[seal_up("revocation", canonical(each), pair("revocation")) for each in self.revocations],
            seal=None if sealed is None else seal_up("seal", canonical(sealed), pair("seal")),
            chain=self.key_lists,
            approvals=[seal_up("approval", canonical(each), pair(each.approver)) for each in approvals],
            superseded=None if superseded is None else seal_up("seal", canonical(superseded), pair("seal")),
            log=self.log,
            prices=[] if self.prices_payload is None else [seal_up("prices", self.prices_payload, pair("registry"))],
        )  # fmt: skip

    def bundle(self, documents: bundle.Documents | None = None) -> bytes:
        """Write the whole bundle."""
        lanes = [
            bundle.Lane(lane.name, lane.head(), lane.lines()) for lane in sorted(self.lanes, key=lambda lane: lane.name)
        ]
        return b"".join(bundle.write(documents or self.documents(self.sealed()), lanes))

    def pin(self, **changes: Any) -> Pin:
        """Pin this world's root."""
        return replace(Pin(roots=[root("root", "owner-1")], threshold=1, suites=[SUITE]), **changes)

    def verify(self, raw: bytes | None = None, **pin: Any) -> Report:
        """Ask the verifier."""
        return verify(BytesIO(self.bundle() if raw is None else raw), self.pin(**pin))

    def _chain(self, changes: Sequence[dict[str, Any]]) -> list[Policy]:
        """Write a policy and those above it, child first; each is the minimal one with changes."""
        chain: list[Policy] = []
        for each in reversed(changes):
            made = build(read_draft(MINIMAL.read_bytes()) | each, issuer=AUTHOR, now=NOW - DAY)
            chain.insert(0, replace(made, parent=digest(canonical(chain[0]))) if chain else made)
        return chain

    def _key_list(self) -> KeyList:
        uses = [
            ("author", "policy", AUTHOR), ("registry", "registry", REGISTRY),
            ("grant", "grant", SCOPE), ("seal", "seal", SCOPE),
            ("token", "token", SCOPE), ("revocation", "revocation", SCOPE), ("gateway", "gateway", GATEWAY),
        ]  # fmt: skip
        return KeyList(
            issuer="owner-1", version=1, issued_at=NOW - DAY, expires=NOW + 90 * DAY,
            roots=[root("root", "owner-1")], threshold=1,
            author_quorum={AUTHOR: 1}, keys=[key(*each) for each in uses],
        )  # fmt: skip

    def _manifest(self, tools: list[Tool] | None) -> Manifest:
        names = ("export_customers", "get_case", "http_request", "search_customer")
        default = [
            Tool(
                name=name, description=name, input_schema=SCHEMA, tool_class="read", sensitivity="internal",
                data_classes=["customer_provided"] if name != "http_request" else [], approval="none",
            )
            for name in names
        ]  # fmt: skip
        return Manifest(
            issuer=REGISTRY,
            server="crm-mcp",
            serial=1,
            issued_at=NOW - DAY,
            url="https://crm.example/mcp",
            tools=tools or default,
        )

    def _grant(self, scope: dict[str, Any], grant: dict[str, Any]) -> Grant:
        made = Scope(
            iss=SCOPE, job=self.job, job_type="support", environment="test", agent="agent-1",
            client="orchestrator-1", audience=GATEWAY, binding="none", policy=self.policy_digest,
            manifests={"crm-mcp": digest(self.manifest_payload)}, tools=[], models=[], limits=Budget(), depth=0,
        )  # fmt: skip
        tools, models, _ = expand((self.policy,), {"crm-mcp": self.manifest}, subject_of(made))
        made = replace(made, **({"tools": tools, "models": models} | scope))
        return replace(Grant(opened=NOW, issued_at=NOW, expires=NOW + 3600 * SECOND, scope=made), **grant)


__all__ = ["NOW", "SECOND", "Lane", "Parent", "Policy", "World", "key", "pair", "root"]
