"""The verifier's own commands, one a file: `HELP` is what `--help` prints, `arguments` reads, `run` acts.

They read their arguments with Python's own parser: the library that the services' commands use takes as long to load as
a small bundle takes to judge, and the program that an auditor trusts is smaller without it.
"""
