"""An orchestrator's work in one piece: a job is opened, its token kept fresh, the job closed, its seal fetched.

    python -m examples.orchestrator --policy sha256:… --scope-url http://127.0.0.1:8702 --client .tally/orchestrator

`make up` prints the digest of a policy. With an event loop `ScopeClient` does the same, each method awaited.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from scope.client import BlockingScopeClient, JobRequest
from service import keystore
from service.app import now
from service.clients import client_token

Agent = Callable[[Callable[[], str]], None]


def credential(home: Path, url: str) -> Callable[[], str]:
    """Make the client's own JWT for each request: the name of its directory is its id, `client.key` lies there."""
    key, name = keystore.load(home / "client.key", "client"), home.resolve().name
    return lambda: client_token(key, name, url, now())


def work(url: str, home: Path, job: JobRequest, agent: Agent) -> bytes:
    """Let an agent work in a job of its own; return the job's seal.

    `agent` is given what gives a token that is good, for each call anew: the api_key of an `openai` client, the bearer
    of an `mcp` one. Whatever becomes of the agent, the job is closed, and its tokens are worth nothing any more.
    """
    with BlockingScopeClient(url, credential(home, url)) as scope:
        opened = scope.open(job)
        token = scope.fresh(opened.job)
        try:
            agent(lambda: token.get().access_token)
        finally:
            scope.close(opened.job)
        return scope.wait_for_seal(opened.job)


def main() -> None:
    """Open and close a job in which nobody works: its seal says that no call was recorded."""
    parser = argparse.ArgumentParser(prog="python -m examples.orchestrator", description=__doc__.partition("\n")[0])
    parser.add_argument("--policy", required=True, help="the digest that the job is pinned to")
    parser.add_argument("--scope-url", default="http://127.0.0.1:8702")
    parser.add_argument("--client", type=Path, required=True, help="the orchestrator's directory")
    given = parser.parse_args()
    job = JobRequest(agent="agent-1", policy=given.policy, job_type="example", environment="test")
    print(
        work(given.scope_url.rstrip("/"), given.client, job, lambda token: print(len(token()), "characters")).decode()
    )


if __name__ == "__main__":
    main()
