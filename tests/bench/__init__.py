"""How fast it is, measured side by side in one run: verification, decision, gateway (tests/bench/README.md)."""
