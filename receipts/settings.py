"""What the gateway is told beyond what every service is told."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from service.settings import DAY, FileName, RetentionDays, Settings
from verifier.encoding import Name

BaseUrl = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,100}(/[A-Za-z0-9._~/-]{0,128})?\Z")]


class Provider(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a provider's models are reached. The key lies in a file of mode 0600 beside the settings, and only here."""

    base_url: BaseUrl
    api_key_file: FileName
    operations: Annotated[list[Literal["chat.completions", "embeddings", "models"]], Meta(min_length=1, max_length=8)]


class McpServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gateway's own credential at one MCP server; where the server is reached says its manifest."""

    api_key_file: FileName


class ReceiptsSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gateway's settings; `max_request` in bytes.

    `share` is what a lane asks for of what is left of its job's purse: half where several gateways serve one job.
    `accept_restored` is the word of a `database-restored`: the older ledger is all there is.
    `upstream_networks` are CIDRs that upstreams may lie in besides public addresses: each opens a network to agents.
    `retention_days` is how long the receipts of sealed jobs are kept; None is for ever.
    """

    models: dict[Name, Provider] = field(default_factory=dict)
    servers: dict[Name, McpServer] = field(default_factory=dict)
    upstream_networks: Annotated[list[str], Meta(max_length=64)] = field(default_factory=list)
    accept_restored: Annotated[str, Meta(max_length=80)] = ""
    share: Literal["all", "half"] = "all"
    max_request: Annotated[int, Meta(ge=1024, le=1 << 24)] = 1 << 20
    retention_days: RetentionDays = None

    @property
    def retention(self) -> int | None:
        """How long receipts are kept, in microseconds."""
        return None if self.retention_days is None else self.retention_days * DAY
