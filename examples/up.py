"""`make up`: the three services on their usual loopback ports, with one signed example policy, until Ctrl-C.

The installation stays in `.tally/`; a second start finds its policy published and leaves it as it is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from examples.stage import ROOT, SERVICES

PORTS = {"controls": 8701, "scope": 8702, "receipts": 8703}
POLICY = ROOT / "examples" / "policies" / "minimal.json"
PATIENCE = 60.0


def main() -> int:
    """Make what is missing, start, publish, and stay until the services end."""
    parser = argparse.ArgumentParser(prog="python -m examples.up", description="Run all three services on loopback.")
    parser.add_argument("--dir", type=Path, default=ROOT / ".tally", help="the installation, made when missing")
    directory: Path = parser.parse_args().dir.absolute()
    if not directory.exists():
        tally("init", str(directory), "--demo")
    with subprocess.Popen([sys.executable, "-m", "verifier", "up", "--dir", str(directory)], cwd=ROOT) as services:
        try:
            wait(services)
            print(
                f"policy {publish(directory)} is published; directories of clients: {directory}/author, orchestrator …"
            )
            print("Next: tally job open --help")
            return services.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            services.terminate()


def publish(directory: Path) -> str:
    """Build, sign and publish the example policy, once; return its digest."""
    kept = directory / "author" / "example.policy.json"
    key, client = directory / "author" / "policy.key", directory / "author"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "built.json"
            tally("policy", "build", str(POLICY), "--key", str(key), "-o", str(built))
            tally("policy", "sign", str(built), "--key", str(key), "-o", str(kept))
    url = f"http://127.0.0.1:{PORTS['controls']}"
    return tally("policy", "publish", str(kept), "--url", url, "--client", str(client))["digest"]


def tally(*arguments: str) -> dict[str, str]:
    """Run a command of `tally` and read its JSON; its own words say what is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "verifier", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr.strip())
    answer: dict[str, str] | list[str] = json.loads(done.stdout)
    return answer if isinstance(answer, dict) else {}


def wait(services: subprocess.Popen[bytes]) -> None:
    """Wait until all three are ready."""
    until = time.monotonic() + PATIENCE
    missing = list(SERVICES)
    while missing and services.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORTS[missing[0]]}/readyz", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            missing.pop(0)
    if missing:
        services.terminate()
        sys.exit(f"up: {missing[0]} does not answer")


if __name__ == "__main__":
    sys.exit(main())
