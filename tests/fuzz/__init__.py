"""Coverage-guided fuzzing of what reads hostile bytes: `make fuzz`, or `python -m tests.fuzz NAME…`.

Nothing but `Refused` with a public code may come out of a reader, and what it accepts it writes again as it came.
"""
