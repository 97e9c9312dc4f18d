"""The vectors of `specs/vectors/`: what they say, how they are made, how they are judged (specs/README.md §3)."""
