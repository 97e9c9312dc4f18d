"""The verifier alone: its base install without index and network, and the one file that needs only python3."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.world import World
from verifier.encoding import canonical

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "requirements" / "base.txt"
# The interpreter itself, without any environment around it.
BARE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
# Put beside the packages of an environment: whatever reaches for a socket there fails, in Python or below it.
NO_SOCKETS = """\
import sys


def refuse(event, _):
    if event.startswith("socket."):
        raise RuntimeError("there is no network here")


sys.addaudithook(refuse)
"""


def run(command: list[str | Path], **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing in its surroundings but what is named."""
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, cwd="/")


def done(command: list[str | Path], **settings: str) -> str:
    """Run a program of ours that has to end well, in the surroundings of this one."""
    ended = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch the wheels of the base lock, each with a hash of the lock."""
    folder = tmp_path_factory.mktemp("wheels")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    done([*pip, "--only-binary", ":all:", "--require-hashes", "-r", BASE, "-d", folder])
    return folder


@pytest.fixture(scope="module")
def alone(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install our wheel and the locked base requirements, with no index, where nothing else is; take sockets away."""
    folder = tmp_path_factory.mktemp("alone")
    done([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT])
    done([BARE, "-m", "venv", folder / "venv"])
    python = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "--no-index"]
    done([*pip, "--find-links", wheels, "--require-hashes", "-r", BASE])
    done([*pip, "--no-deps", next(folder.glob("*.whl"))])
    site = done([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    (Path(site) / "sitecustomize.py").write_text(NO_SOCKETS)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def onefile(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the one file from the same wheels: `requirements/onefile.py` builds it twice and compares."""
    folder = tmp_path_factory.mktemp("dist")
    build: list[str | Path] = [sys.executable, ROOT / "requirements" / "onefile.py", folder]
    said = done(build, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
    assert re.search(r"for CPython 3\.\d+ on \w+ \w+.*; built twice, the same bytes\n", said)
    return next(folder.glob("tally-verifier-*.pyz"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an honest bundle, a forged one, and the pin."""
    folder = tmp_path_factory.mktemp("bundles")
    world = World().story()
    (folder / "job.tally").write_bytes(world.bundle())
    (folder / "forged.tally").write_bytes(world.bundle().replace(b'"rule":"allow-1"', b'"rule":"allow-2"', 1))
    (folder / "pin.json").write_bytes(canonical(world.pin()))
    return folder


def test_the_base_install_is_what_is_locked_and_nothing_else(alone: Path) -> None:
    pip: list[str | Path] = [alone / "python", "-m", "pip", "--disable-pip-version-check"]
    installed = {each["name"]: each["version"] for each in json.loads(done([*pip, "list", "--format=json"]))}
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", BASE.read_text(), flags=re.MULTILINE))
    found = {canonicalize_name(name): version for name, version in installed.items()}
    assert {name: found[name] for name in found.keys() - {"pip", "setuptools", "tallystick"}} == locked


def test_the_base_install_judges_without_index_and_without_sockets(alone: Path, bundles: Path) -> None:
    assert "no network here" in run([alone / "python", "-c", "import socket; socket.socket()"]).stderr
    for name, status, word in (("job", 0, "PASS"), ("forged", 1, "FAIL")):
        said = run([alone / "tally", "verify", bundles / f"{name}.tally", "--pin", bundles / "pin.json"])
        assert (said.returncode, said.stdout[:4], said.stderr) == (status, word, "")


def test_the_one_file_needs_python_and_nothing_else(onefile: Path, bundles: Path, tmp_path: Path) -> None:
    settings: dict[str, dict[str, str]] = {
        "an empty home": {"HOME": str(tmp_path / "home")},
        "the same home again": {"HOME": str(tmp_path / "home")},
        "no home": {"TMPDIR": str(tmp_path)},
        "a home that cannot be written": {"HOME": "/dev/null", "TMPDIR": str(tmp_path)},
        "a root of the caller's": {"SHIV_ROOT": str(tmp_path / "root")},
    }
    (tmp_path / "home").mkdir()
    for name, given in settings.items():
        for bundle, status in (("job", 0), ("forged", 1)):
            said = run([BARE, onefile, "verify", bundles / f"{bundle}.tally", "--pin", bundles / "pin.json"], **given)
            assert (said.returncode, said.stderr) == (status, ""), (name, said.stdout, said.stderr)
    assert {path.name for path in tmp_path.iterdir()} == {"home", "root"}  # private folders are gone


def test_the_one_file_says_what_it_is_for(onefile: Path) -> None:
    major, minor = sys.version_info[:2]
    assert f"-cp{major}{minor}-" in onefile.name
    assert "Usage: tally verify" in run([BARE, onefile, "verify", "--help"]).stdout
    main = run([BARE, "-c", f"import zipfile; print(zipfile.ZipFile({str(onefile)!r}).read('__main__.py').decode())"])
    other = main.stdout.replace(f"!= ({major}, {minor})", "!= (3, 1)")
    said = run([BARE, "-c", other])
    assert said.returncode == 1
    assert said.stderr.startswith(f"tally: this file is for CPython {major}.{minor} on ")
