"""Who a gateway is: the key of its heads, the key it calls with, whom it believes, whose models it may use."""

from collections.abc import Callable, Mapping

from msgspec import Struct

from receipts.settings import McpServer, Provider, ReceiptsSettings
from service import keystore
from service.clients import Clock, client_token
from verifier.keys import Pin, Trust
from verifier.refused import Refused
from verifier.signing import KeyPair

CLIENT = "receipts"


class Identity(Struct, frozen=True):
    """The keys of a gateway; `api_keys` by provider and `server_keys` by MCP server are secrets, as the pairs are."""

    pair: KeyPair
    client: KeyPair
    trust: Trust
    key_list: bytes
    api_keys: dict[str, str]
    server_keys: dict[str, str]

    def credential(self, audience: str, clock: Clock) -> Callable[[], str]:
        """Make a fresh token of our own for each request to another service."""
        return lambda: client_token(self.client, CLIENT, audience, clock())


def read_identity(settings: ReceiptsSettings, at: int) -> Identity:
    """Read keys, key list and pin; a key that the list does not name as this gateway's would sign in vain.

    Raises `Refused`: bad-settings, no-key, loose-mode, key-not-valid, key-revoked.
    """
    directory = settings.directory
    key_list = (directory / "keys.json").read_bytes()
    trust = Trust.establish(Pin.parse((directory / "pin.json").read_bytes()), key_list)
    pair = keystore.load(directory / "gateway.key", "gateway")
    listed = trust.by_kid.get(pair.kid)
    if listed is None or (listed.use, listed.owner) != ("gateway", settings.issuer):
        raise Refused("bad-settings", f"the key list names gateway.key as no gateway key of {settings.issuer}")
    trust.good_at(listed, at)
    client = keystore.load(directory / "client.key", "client")
    providers, servers = _api_keys(settings, settings.models), _api_keys(settings, settings.servers)
    return Identity(pair, client, trust, key_list, providers, servers)


def _api_keys(settings: ReceiptsSettings, upstreams: Mapping[str, Provider | McpServer]) -> dict[str, str]:
    """Read the upstreams' API keys from files that nobody else can read."""
    return {
        name: keystore.read_private(settings.directory / upstream.api_key_file).decode().strip()
        for name, upstream in upstreams.items()
    }
