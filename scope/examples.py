"""What scope is asked, as its OpenAPI document shows it: each is a request that its own type reads."""

from scope.client import HeadsReport, JobRequest, LaneRequest, Models, RevocationRequest, Tools
from scope.client.lanes import Head
from verifier.grant import Budget

JOB = JobRequest(
    agent="support-1",
    policy="sha256:29530e73bebd84154da6a73daeee6b88204667926fa0d8379a7dec5bf58b9c04",
    job_type="support",
    environment="production",
    authorization_details=[
        Tools(server="crm-mcp", tools=["get_case", "search_customer"]),
        Models(models=["openrouter_via_fal/small-*"]),
    ],
    limits=Budget(calls=100),
    expires_in=3600,
)
LANE = LaneRequest(
    lane="0e5f0ce84a3d2f1b9c7a6d58",
    gateway="https://gateway.example",
    kid="70d1a4bf7430c48d4d86534af5ee7ed0",
    origin="gateway.example/tally/job-f211e5fcdf6975306fc38ca8/0e5f0ce84a3d2f1b9c7a6d58",
)
HEADS = HeadsReport(
    heads=[
        Head(
            lane=LANE.lane,
            note=f"{LANE.origin}\n2\nXK7…=\n\n— {LANE.origin} 5Wk…=\n",
            jtis=["f58201eb7b4311f3cb5dca83dacf7e38"],
            running=1,
        )
    ]
)
REVOCATION = RevocationRequest(kind="tool", value="crm-mcp/export_customers", reason="incident", ticket="INC-7")
