"""What tally exports against Go's implementation of the same formats: `make interop`."""
