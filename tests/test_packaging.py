"""What is installed is what was locked, and the wheel holds all that it needs."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.app import VERSION

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("base", "services", "dev", "build")


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Read a lock: package -> version and number of hashes."""
    found = {}
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
            found[canonicalize_name(match[1])] = (match[2], line.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_for_everything_and_names_no_index_and_no_path(name: str) -> None:
    assert all(hashes for _, hashes in locked(name).values())
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    assert not [
        line for line in lines if re.search(r"://|--index|--extra-index|--find-links|--trusted|(^|[\s=])/", line)
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_agree_on_versions(name: str) -> None:
    everything = locked("dev")
    assert {each: found[0] for each, found in locked(name).items() if each in everything} == {
        each: everything[each][0] for each in locked(name) if each in everything
    }


@pytest.mark.parametrize(
    ("name", "extras"), [("base", []), ("services", ["services"]), ("dev", ["services", "analysis", "dev"])]
)
def test_a_lock_satisfies_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    asked = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(locked(name)[canonicalize_name(requirement.name)][0]), requirement


def test_the_base_install_is_the_verifier_alone() -> None:
    assert {each.name for each in map(Requirement, PROJECT["dependencies"])} == {
        "cryptography", "msgspec", "pynacl", "rich",
    }  # fmt: skip
    assert {"litestar", "sqlalchemy", "aiohttp", "uvicorn", "typer", "pydantic"}.isdisjoint(locked("base"))


def test_the_version_is_one() -> None:
    assert PROJECT["version"] == VERSION


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_wheel_holds_code_migrations_and_the_list_of_errors_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    needed = {
        "specs/errors.md",
        "specs/verification.md",
        "migrations/alembic.ini",
        "migrations/env.py",
        "verifier/py.typed",
        "service/commands.py",
        f"tallystick-{VERSION}.dist-info/entry_points.txt",
        f"tallystick-{VERSION}.dist-info/licenses/LICENSE",
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "migrations").rglob("0*.py")),
    }
    assert needed <= names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"controls", "migrations", "receipts", "scope", "service", "specs", "verifier"}
