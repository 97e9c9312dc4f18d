"""Bundles: honest ones, and every attack on one that this version judges. A file's name says what is wrong with it."""

from tests.vectors.bundles import (
    bindings,
    carrier,
    completeness,
    decisions,
    grants,
    honest,
    lanes,
    policies,
    reading,
    receipts,
    seals,
    times,
    trust,
)

MADE = (
    honest.MADE
    | reading.MADE
    | carrier.MADE
    | trust.MADE
    | policies.MADE
    | grants.MADE
    | seals.MADE
    | lanes.MADE
    | receipts.MADE
    | bindings.MADE
    | decisions.MADE
    | times.MADE
    | completeness.MADE
)
