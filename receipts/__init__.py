"""The gateway between agents and all that they call, and the ledger of receipts that it keeps (specs/receipts.md)."""
