"""`tally keygen`: keys that no service keeps."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from verifier.box import SEED_BYTES, AuditorKey
from verifier.contents import AuditorFile, write_secret
from verifier.encoding import b64, canonical
from verifier.refused import Refused
from verifier.terminal import say

HELP = """\
Usage: tally keygen auditor --owner OWNER -o FILE
       tally keygen signer -o FILE

Make a key in a new file of mode 0600, and print its public half: for an auditor, to whom payloads are sealed, what the
key list says of it; for a signer of statements (tally export), a PEM of Ed25519.

Options:
  --owner OWNER      whose key it is, as policies name it
  -o, --output FILE  the private key
  -h, --help         show this text

Examples:
  tally keygen auditor --owner auditors -o auditor.key
  tally keygen signer -o signer.pem
"""


def arguments(parser: ArgumentParser) -> None:
    """Read what HELP names."""
    parser.add_argument("kind", choices=("auditor", "signer"), metavar="KIND")
    parser.add_argument("--owner")
    parser.add_argument("-o", "--output", required=True)


def run(given: Namespace) -> int:
    """Make one key."""
    if (given.kind == "auditor") != bool(given.owner):
        raise Refused("usage", "an auditor's key has an --owner, a signer's has none")
    say(_auditor(given.owner, Path(given.output)) if given.owner else _signer(Path(given.output)))
    return 0


def _auditor(owner: str, path: Path) -> str:
    made = AuditorKey(os.urandom(SEED_BYTES))
    write_secret(path, canonical(AuditorFile(use="auditor", owner=owner, hpke_seed=b64(made.seed))))
    return canonical({"hpke": b64(made.public), "kid": made.kid, "owner": owner, "use": "auditor"}).decode()


def _signer(path: Path) -> str:
    made = Ed25519PrivateKey.generate()
    write_secret(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().rstrip()
