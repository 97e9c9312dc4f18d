"""The forms in which a report leaves the program: text, JSON, SARIF, JUnit, HTML (specs/verification.md §17)."""
