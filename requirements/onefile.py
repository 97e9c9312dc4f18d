"""Build the verifier as one file with all its dependencies inside: `make verifier`.

    dist/tally-verifier-<version>-<interpreter>-<platform>.pyz

Everything inside comes from the base lock, hash by hash; the archive is shiv's, whose bootstrap unpacks it once below
`$SHIV_ROOT` or `~/.shiv`. It is built twice, from two installations, and both files must have the same bytes. Times
inside are SOURCE_DATE_EPOCH, by default that of the last commit. Another folder than `dist` is the one argument.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from tempfile import TemporaryDirectory

from shiv import __version__ as shiv_version
from shiv import builder
from shiv.bootstrap.environment import Environment
from shiv.constants import BUILD_AT_TIMESTAMP_FORMAT

ROOT = Path(__file__).resolve().parent.parent
OLDEST_ZIP = 315532800  # 1980: no zip can hold an earlier time
# What pip notes about this machine and this minute; and programs whose first line is a path of this machine.
LOCAL = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
# Runs before anything is unpacked. No braces: shiv formats it.
MAIN = """\
import os
import sys

if sys.implementation.name != "cpython" or sys.version_info[:2] != VERSION or sys.platform != "PLATFORM":
    sys.exit("tally: this file is for WORDS; here is " + sys.implementation.name + " " + sys.version.split()[0])


def home():
    # Where shiv unpacks: once below the caller's home, or, where nothing can be kept, for this run in a private folder.
    try:
        os.makedirs(os.path.join(os.environ["HOME"] or "/dev/null", ".shiv"), mode=0o700, exist_ok=True)
    except (KeyError, OSError):
        import atexit
        import shutil
        import tempfile

        here, root = os.getpid(), tempfile.mkdtemp(prefix="tally-")
        os.environ["SHIV_ROOT"] = root
        atexit.register(lambda: os.getpid() == here and shutil.rmtree(root, ignore_errors=True))


if "SHIV_ROOT" not in os.environ:
    home()

import _bootstrap

_bootstrap.bootstrap()
"""


def main(arguments: list[str]) -> int:
    """Build twice, compare, and say what the file is for."""
    dist = Path(arguments[0]) if arguments else ROOT / "dist"
    with TemporaryDirectory() as folder:
        wheel = _wheel(Path(folder))
        made = [_build(Path(folder) / name, wheel) for name in ("one", "two")]
        if made[0].read_bytes() != made[1].read_bytes():
            print("tally: two builds of the verifier differ")
            return 1
        out = dist / made[0].name
        out.parent.mkdir(exist_ok=True)
        shutil.copy2(made[0], out)
        words = _words(Path(folder) / "one" / "site")
    shown = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    print(f"{shown}: {out.stat().st_size / 1e6:.1f} MB, for {words}; built twice, the same bytes")
    print(f"sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}")
    return 0


def _wheel(folder: Path) -> Path:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    _run(build, _times())
    return next(folder.glob("*.whl"))


def _build(folder: Path, wheel: Path) -> Path:
    """Install into an empty folder, leave out what is of this machine, and pack the rest."""
    site = folder / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
        "--quiet",
    ]
    _run([*pip, "--target", str(site), "--require-hashes", "-r", str(ROOT / "requirements" / "base.txt")], _times())
    _run([*pip, "--target", str(site), "--no-deps", "--no-index", str(wheel)], _times())
    shutil.rmtree(site / "bin", ignore_errors=True)
    for path in site.rglob("*"):
        if path.name in LOCAL and path.parent.name.endswith(".dist-info"):
            path.unlink()
        elif path.is_file():
            path.chmod(0o644)
    version = wheel.name.split("-")[1]
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-{re.sub('[-.]', '_', sysconfig.get_platform())}"
    target = folder / f"tally-verifier-{version}-{tag}.pyz"
    built_at = datetime.fromtimestamp(int(_times()["SOURCE_DATE_EPOCH"]), UTC).strftime(BUILD_AT_TIMESTAMP_FORMAT)
    environment = Environment(
        built_at=built_at, shiv_version=shiv_version, entry_point="verifier.cli:main", compile_pyc=False,
        reproducible=True,
    )  # fmt: skip
    # shiv offers no place for code of ours before its own: a preamble runs when everything is unpacked already.
    builder.MAIN_TEMPLATE = (
        MAIN.replace("VERSION", repr(sys.version_info[:2]))
        .replace("PLATFORM", sys.platform)
        .replace("WORDS", _words(site))
    )
    builder.create_archive([site], target, "/usr/bin/env python3", "_bootstrap:bootstrap", environment)
    return target


def _words(site: Path) -> str:
    """Name interpreter and platform: the least that every wheel inside asks for."""
    least = (0, 0)
    for path in site.glob("*.dist-info/WHEEL"):
        tags = HeaderParser().parsestr(path.read_text()).get_all("Tag", [])
        found = [(int(a), int(b)) for tag in tags for a, b in re.findall(r"manylinux_(\d+)_(\d+)", tag)]
        found += [(2, 17) for tag in tags if "manylinux2014" in tag]
        least = max(least, min(found, default=(0, 0)))
    glibc = f" with glibc {least[0]}.{least[1]} or later" if least > (0, 0) else ""
    return f"CPython {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}{glibc}"


def _times() -> dict[str, str]:
    """Fix the time that goes into the archive."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        command = ["git", "log", "-1", "--format=%ct"]
        log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        given = log.stdout.strip() or str(OLDEST_ZIP)
    return {"SOURCE_DATE_EPOCH": str(max(int(given), OLDEST_ZIP))}


def _run(command: list[str], settings: dict[str, str]) -> None:
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tally: {' '.join(command[:5])}… failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
