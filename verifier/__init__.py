"""The ground floor: what every signed thing is, and every check on it.

    from verifier import Pin, verify

    report = verify("job.tally", Pin.parse(Path("pin.json").read_bytes()))
    report.verdict, report.exit_code, report.findings

Nothing here opens a socket or reads a clock; files are read only by `verify()` and the command line.
The services sign with the very types that the verifier reads (specs/README.md).
"""

from verifier.audit import verify
from verifier.codes import CODES, Verdict
from verifier.keys import Pin
from verifier.refused import Refused
from verifier.report import Finding, Report, Totals

__all__ = ["CODES", "Finding", "Pin", "Refused", "Report", "Totals", "Verdict", "verify"]
