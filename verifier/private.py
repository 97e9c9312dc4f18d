"""Private files of the command line: keys that only their owner can read.

What is readable by anybody else is refused, not repaired: it may have been read already.
"""

import os
import stat
from pathlib import Path

from verifier.refused import Refused

MAX_PRIVATE = 1 << 16


def read_private(path: Path, limit: int = MAX_PRIVATE) -> bytes:
    """Read a file that nobody else could have read, at most `limit` + 1 bytes. Raises `Refused`: no-key, loose-mode."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Refused("no-key", f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        require_private(os.fstat(descriptor), path)
        return file.read(limit + 1)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, durably. Raises `FileExistsError` rather than replace one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def require_private(status: os.stat_result, path: Path) -> None:
    """Refuse what others than its owner can open. Raises `Refused` loose-mode."""
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid != os.geteuid():
        hint = "Make a new one: somebody else may have read this one. Files are 0600, directories 0700, both your own."
        raise Refused("loose-mode", f"{path.name} is open to others than its owner", hint=hint)
