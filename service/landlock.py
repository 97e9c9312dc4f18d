"""A process that locks itself into its own directory (Linux Landlock; kernel documentation, userspace-api/landlock).

The services run under one user; without this each could read the others' keys. Afterwards the process reads and writes
its own directory, reads the interpreter, its libraries and this program's source, and opens nothing else, for ever.
"""

import ctypes
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from service import NAMES
from verifier.refused import Refused

SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
# Every right on the file system that each version of the interface knows; what a kernel knows is denied by default.
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
SCOPED_FROM = 6
SCOPED = 0b11  # no abstract sockets and no signals across the boundary

SYSTEM = (
    *("/usr", "/lib", "/lib64", "/proc/self", "/sys/devices/system/cpu", "/dev/urandom", "/dev/random"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/gai.conf", "/etc/services"),
)
DEVICES = ("/dev/null",)


class RulesetAttribute(ctypes.Structure):
    """`struct landlock_ruleset_attr`: what is denied unless a rule allows it."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class PathBeneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`: rights below one open directory or on one file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Ask the kernel for its version of the interface; 0 where there is none."""
    known: int = _libc().syscall(SYS_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    return max(0, known)


def restrict(directory: Path, source: Path) -> bool:
    """Lock this process into `directory`, for ever; False where the kernel has no Landlock.

    Call it before any thread is started: a running thread would stay free. Raises `Refused` with not-restricted when
    the kernel could and did not, or when `directory` lies below what must stay readable.
    """
    known = version()
    if not known:
        return False
    if len(list(Path("/proc/self/task").iterdir())) != 1:  # native threads count too
        raise Refused("not-restricted", "threads were started before the process was restricted")
    readable = [
        *SYSTEM,
        *_interpreter(),
        *(str(source / each) for each in (*NAMES, "service", "verifier", "migrations", "specs")),
    ]
    _refuse_overlap(directory, readable)
    rights = RIGHTS[min(known, max(RIGHTS))]
    ruleset = _create(rights, known)
    try:
        _allow(ruleset, [str(directory)], rights & ~EXECUTE)
        _allow(ruleset, readable, READ & rights)
        _allow(ruleset, DEVICES, (READ_FILE | WRITE_FILE) & rights)
        _enforce(ruleset)
    finally:
        os.close(ruleset)
    return True


def _interpreter() -> Iterable[str]:
    """Where Python and what it imports lie: prefixes, libraries, installed packages; never the whole of `sys.path`."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    return (*prefixes, *sysconfig.get_paths().values(), *site.getsitepackages())


def _refuse_overlap(directory: Path, readable: Iterable[str]) -> None:
    """A neighbour's keys must not lie below what every service may read."""
    neighbours = directory.resolve().parent
    for path in readable:
        if neighbours.is_relative_to(Path(path).resolve()):
            hint = "Move the installation out of the program's own directories."
            raise Refused("not-restricted", f"{directory} lies below {path}, which every service may read", hint=hint)


def _create(rights: int, known: int) -> int:
    attribute = RulesetAttribute(rights, 0, SCOPED if known >= SCOPED_FROM else 0)
    # An older kernel knows a shorter structure, and takes the longer one while the rest is zero.
    return _checked(_libc().syscall(SYS_CREATE_RULESET, ctypes.byref(attribute), ctypes.sizeof(attribute), 0))


def _allow(ruleset: int, paths: Iterable[str], rights: int) -> None:
    for path in sorted(set(paths)):
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            allowed = rights if Path(path).is_dir() else rights & FILE_RIGHTS
            rule = PathBeneath(allowed, descriptor)
            _checked(_libc().syscall(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0))
        finally:
            os.close(descriptor)


def _enforce(ruleset: int) -> None:
    _checked(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_libc().syscall(SYS_RESTRICT_SELF, ruleset, 0))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _checked(result: int) -> int:
    if result < 0:
        raise Refused("not-restricted", f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
