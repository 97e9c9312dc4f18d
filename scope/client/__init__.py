"""What callers and `scope` say to each other, and the client of orchestrators, gateways and responders.

Documents travel as the bytes that were signed and come back as such. The client checks digests; whether a signature is
good is the caller's to ask `verifier.documents`, whose trust is the caller's own. An orchestrator's whole road is in
`examples/orchestrator.py`.
"""

from scope.client.asynchronous import ScopeClient
from scope.client.blocking import BlockingFreshToken, BlockingScopeClient
from scope.client.details import Detail, LocalTools, Models, Prompts, Resources, Tools
from scope.client.fresh import FreshToken
from scope.client.jobs import DeletedJob, JobLane, JobPage, JobRequest, JobStatus, OpenedJob
from scope.client.lanes import (
    MAX_HEADS,
    Closing,
    Head,
    HeadsAnswer,
    HeadsReport,
    Incident,
    IncidentPage,
    LaneRequest,
    RefusedHead,
    RegisteredLane,
)
from scope.client.message import Code, Reason, State
from scope.client.revocations import Documents, Preview, RevocationRequest, Revoked, Snapshot
from scope.client.tokens import (
    ACCESS_TOKEN,
    ASSERTION,
    TOKEN_EXCHANGE,
    IssuedToken,
    TokenHeader,
    claims_of,
    header_of,
)
from scope.client.transport import Credential, Proving
from scope.client.unsealed import LateJob, Unsealed, Writing

__all__ = [
    "ACCESS_TOKEN",
    "ASSERTION",
    "MAX_HEADS",
    "TOKEN_EXCHANGE",
    "BlockingFreshToken",
    "BlockingScopeClient",
    "Closing",
    "Code",
    "Credential",
    "DeletedJob",
    "Detail",
    "Documents",
    "FreshToken",
    "Head",
    "HeadsAnswer",
    "HeadsReport",
    "Incident",
    "IncidentPage",
    "IssuedToken",
    "JobLane",
    "JobPage",
    "JobRequest",
    "JobStatus",
    "LaneRequest",
    "LateJob",
    "LocalTools",
    "Models",
    "OpenedJob",
    "Preview",
    "Prompts",
    "Proving",
    "Reason",
    "RefusedHead",
    "RegisteredLane",
    "Resources",
    "RevocationRequest",
    "Revoked",
    "ScopeClient",
    "Snapshot",
    "State",
    "TokenHeader",
    "Tools",
    "Unsealed",
    "Writing",
    "claims_of",
    "header_of",
]
