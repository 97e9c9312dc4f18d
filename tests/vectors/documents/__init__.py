"""Single documents: what each reader accepts, and by which code it refuses the rest. One folder a reader."""

from tests.vectors.case import Made
from tests.vectors.documents import boxes, jobs, kept, policies, receipts, trees, trust

FOLDERS: dict[str, Made] = {
    "policies": policies.POLICIES,
    "drafts": policies.DRAFTS,
    "manifests": jobs.MANIFESTS,
    "prices": jobs.PRICES,
    "grants": jobs.GRANTS,
    "seals": jobs.SEALS,
    "revocations": jobs.REVOCATIONS,
    "approvals": jobs.APPROVALS,
    "keys": trust.KEYS,
    "pins": trust.PINS,
    "envelopes": trust.ENVELOPES,
    "checkpoints": trees.CHECKPOINTS,
    "proofs": trees.PROOFS,
    "leaves": receipts.LEAVES,
    "boxes": boxes.BOXES,
    "kept": kept.KEPT,
}
