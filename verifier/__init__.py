"""The ground floor: what every signed thing is, and every check on it.

Nothing here opens a socket or reads a clock; files are read only by `verify()`'s caller and the command line.
The services sign with the very types that the verifier reads (specs/README.md).
"""
