"""`python -m verifier`: the same program as `tally`."""

from verifier.cli import main

main()
