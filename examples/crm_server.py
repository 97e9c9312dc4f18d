"""A small customer database as an MCP server, written with the official SDK (revision 2026-07-28).

    python -m examples.crm_server --port 8801 [--slow-seconds 30] [--key-file FILE]

Streamable HTTP at `/mcp`, stateless, JSON answers. The example policy allows `search_customer` and `get_case`,
denies `http_request`, and does not list `export_customers`. The data never changes. The case `CASE-SLOW` takes
`--slow-seconds` to read, so that a gateway can be killed in the middle of a call; a case that does not exist is a
tool error.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from examples.upstream import command_line, serve

SLOW_CASE = "CASE-SLOW"


@dataclass(frozen=True)
class Customer:
    """A customer on file."""

    customer_id: str
    name: str
    city: str


@dataclass(frozen=True)
class Case:
    """A support case of one customer."""

    case_id: str
    customer_id: str
    status: Literal["open", "closed"]
    subject: str


CUSTOMERS = (
    Customer("CUST-1", "Ada Example", "London"),
    Customer("CUST-2", "Grace Example", "Arlington"),
    Customer("CUST-3", "Alan Sample", "Manchester"),
    Customer("CUST-4", "Katherine Sample", "Hampton"),
)

CASES = {
    case.case_id: case
    for case in (
        Case("CASE-1", "CUST-1", "open", "Invoice shows the wrong address"),
        Case("CASE-2", "CUST-2", "closed", "Cannot sign in after the update"),
        Case("CASE-3", "CUST-3", "open", "Asks for a copy of the contract"),
        Case(SLOW_CASE, "CUST-4", "open", "The archive is slow to answer"),
    )
}


def crm(slow_seconds: float) -> MCPServer[None]:
    """The server and its four tools."""
    server: MCPServer[None] = MCPServer("crm-mcp", version="1.0.0", log_level="WARNING")

    @server.tool()
    def search_customer(query: str, limit: int = 5) -> list[Customer]:
        """Find customers whose name or city contains the query."""
        return matching(CUSTOMERS, query)[: max(limit, 0)]

    @server.tool()
    async def get_case(case_id: str) -> Case:
        """Read one support case."""
        if case_id not in CASES:
            reason = f"no case {case_id}"
            raise ToolError(reason)
        if case_id == SLOW_CASE:
            await anyio.sleep(slow_seconds)
        return CASES[case_id]

    @server.tool()
    def http_request(url: str) -> str:
        """Fetch a web address. This example only pretends to: it makes no request."""
        return f"200 OK from {url}"

    @server.tool()
    def export_customers(format: Literal["csv", "json"]) -> str:  # noqa: A002 - the argument's name on the wire
        """Write out all customers."""
        rows = [asdict(customer) for customer in CUSTOMERS]
        return json.dumps(rows) if format == "json" else "\n".join(",".join(row.values()) for row in rows)

    return server


def matching(customers: Iterable[Customer], query: str) -> list[Customer]:
    """The customers whose name or city contains the query, whatever its case."""
    wanted = query.casefold()
    return [c for c in customers if wanted in c.name.casefold() or wanted in c.city.casefold()]


def main() -> None:
    """Serve at `/mcp` until the process is ended."""
    parser = command_line("examples.crm_server", "An example MCP server.", key_required=False)
    parser.add_argument("--slow-seconds", type=float, default=30.0, help=f"how long get_case {SLOW_CASE} takes")
    options = parser.parse_args()
    serve(crm(options.slow_seconds).streamable_http_app(json_response=True, stateless_http=True), options)


if __name__ == "__main__":
    main()
