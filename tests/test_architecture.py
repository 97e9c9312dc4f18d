"""The arrows of the house: who may import whom, read from the sources themselves."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("controls", "scope", "receipts")
OURS = {*SERVICES, "service", "verifier", "migrations", "examples", "tests"}
# What the verifier needs, and what only its command line adds.
VERIFIER_NEEDS = {"msgspec", "cryptography", "nacl"}
# The program's list of commands is typer's, the bar of a long audit is rich's; no other file needs either.
TERMINAL = {"verifier/cli.py": {"typer"}, "verifier/progress.py": {"rich"}}
# Files of a service from the top down; a file imports only files below it. An act is any file not named here.
LAYERS = {"app": 0, "commands": 0, "routes": 1, "store": 3, "tables": 4}
ACT = 2
PLAIN = {"settings", "client", "__init__"}
NETWORK = ("asyncio", "ftplib", "http.", "smtplib", "socket", "ssl", "urllib.request", "xmlrpc")
# Slow on the hot path, as measured, or not to be used at all.
FORBIDDEN = {"httpx", "requests", "pickle", "marshal", "shelve"}


def sources(package: str) -> list[Path]:
    """List a package's source files."""
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Name every module that a file imports, wherever in the file; `from a import b` names a.b."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield from (f"{module}.{each.name}" for each in node.names)


def outside(path: Path) -> set[str]:
    """Name the distributions that a file imports, ours and Python's own left out."""
    return {each.split(".")[0] for each in imports(path)} - OURS - set(sys.stdlib_module_names)


def of_ours(path: Path) -> set[str]:
    """Name what a file imports of this project."""
    return {each for each in imports(path) if each.split(".")[0] in OURS}


def is_file(module: str) -> bool:
    """Tell a module from a name inside one."""
    return (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


def library_files() -> set[Path]:
    """Find the files that `import verifier` loads: the library, without its command line."""
    found: set[Path] = set()
    waiting = {ROOT / "verifier/__init__.py"}
    while waiting:
        found |= waiting
        waiting = {path for path in sources("verifier") for each in waiting if name(path) in modules(each)} - found
    return found


def name(path: Path) -> str:
    """Name a file as a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def modules(path: Path) -> set[str]:
    """Name the modules of ours that a file imports."""
    found = of_ours(path)
    return {each for each in found if is_file(each)} | {each.rpartition(".")[0] for each in found if not is_file(each)}


@pytest.mark.parametrize("package", [*SERVICES, "service", "verifier", "migrations"])
def test_every_package_has_files(package: str) -> None:
    assert sources(package)


def test_the_verifier_imports_nothing_of_ours() -> None:
    assert {each for path in sources("verifier") for each in of_ours(path) if not each.startswith("verifier")} == set()


def test_the_verifier_needs_three_libraries() -> None:
    for path in sources("verifier"):
        assert outside(path) <= VERIFIER_NEEDS | TERMINAL.get(path.relative_to(ROOT).as_posix(), set()), path


def test_the_library_loads_nothing_of_the_command_line() -> None:
    library = {path.relative_to(ROOT).as_posix() for path in library_files()}
    assert "verifier/audit.py" in library
    assert not library & set(TERMINAL)
    assert not [path for path in library if path.startswith(("verifier/commands/", "verifier/output/"))]


def test_the_verifier_has_no_way_to_the_network() -> None:
    for path in sources("verifier"):
        assert not [each for each in imports(path) if each.startswith(NETWORK)], path


def test_service_stands_on_the_verifier_alone() -> None:
    for path in [*sources("service"), *sources("migrations")]:
        assert {each.split(".")[0] for each in of_ours(path)} <= {
            "service",
            "verifier",
            "migrations",
            *history(path),
        }, path


def history(path: Path) -> set[str]:
    """Name the service whose history a migration belongs to."""
    parts = path.relative_to(ROOT).parts
    return {parts[1]} if parts[0] == "migrations" and len(parts) > 2 else set()


@pytest.mark.parametrize("package", SERVICES)
def test_a_service_knows_another_only_by_its_client(package: str) -> None:
    for path in sources(package):
        for each in modules(path):
            first = each.split(".")[0]
            assert first in {package, "service", "verifier"} or (first in SERVICES and each == f"{first}.client"), (
                path,
                each,
            )


@pytest.mark.parametrize("package", SERVICES)
def test_a_client_module_imports_only_the_verifier(package: str) -> None:
    paths = [path for path in sources(package) if place(path) == "client"]
    assert paths
    for path in paths:
        assert all(f"{each}.".startswith(("verifier.", f"{package}.client.")) for each in of_ours(path)), path


@pytest.mark.parametrize("package", SERVICES)
def test_inside_a_service_arrows_point_downward(package: str) -> None:
    for path in sources(package):
        own = place(path)
        if own in PLAIN:
            continue
        for each in modules(path):
            part = each.split(".")
            if part[0] == package and len(part) > 1 and part[1] not in PLAIN and part[1] != own:
                assert layer(own) <= layer(part[1]), (path, each)


def place(path: Path) -> str:
    """Name the file of a service, or the package below it, that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def layer(stem: str) -> int:
    """Number a file's floor, the roof being 0."""
    return LAYERS.get(stem, ACT)


@pytest.mark.parametrize("package", SERVICES)
def test_only_app_reads_the_clock_and_the_environment(package: str) -> None:
    for path in sources(package):
        if place(path) not in {"app", "commands"}:
            found = set(imports(path))
            assert not found & {"os.environ", "time.time", "time.time_ns", "datetime.datetime.now"}, path
            assert "time.time" not in path.read_text(), path
            assert "os.environ" not in path.read_text(), path


def test_nothing_imports_what_is_forbidden() -> None:
    for package in (*SERVICES, "service", "verifier", "migrations"):
        for path in sources(package):
            assert not {each.split(".")[0] for each in imports(path)} & FORBIDDEN, path
