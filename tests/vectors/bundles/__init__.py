"""Bundles: honest ones, and every attack on one that this version judges. A file's name says what is wrong with it."""

from tests.vectors.bundles import (
    approvals,
    bindings,
    carrier,
    clients,
    completeness,
    costs,
    decisions,
    delegation,
    facts,
    forgers,
    grants,
    held,
    honest,
    kinds,
    lanes,
    policies,
    quorum,
    reading,
    receipts,
    rotation,
    seals,
    shown,
    times,
    trust,
    witness,
)

MADE = (
    honest.MADE
    | reading.MADE
    | carrier.MADE
    | trust.MADE
    | rotation.MADE
    | policies.MADE
    | quorum.MADE
    | grants.MADE
    | delegation.MADE
    | seals.MADE
    | witness.MADE
    | approvals.MADE
    | lanes.MADE
    | receipts.MADE
    | bindings.MADE
    | decisions.MADE
    | costs.MADE
    | kinds.MADE
    | facts.MADE
    | times.MADE
    | completeness.MADE
    | held.MADE
    | shown.MADE
    | clients.MADE
    | forgers.MADE
)
