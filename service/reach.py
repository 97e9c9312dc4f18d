"""Which addresses a service may connect to: public ones, and those in networks that its operator allows.

The address is checked where the connection is made, so that a name cannot be looked up twice with two answers.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from verifier.refused import Refused

Network = IPv4Network | IPv6Network
_NAT64 = IPv6Network("64:ff9b::/96")


def networks(names: Sequence[str]) -> tuple[Network, ...]:
    """Read CIDRs. Raises `Refused` bad-settings."""
    try:
        return tuple(ip_network(name) for name in names)
    except ValueError as error:
        raise Refused("bad-settings", "upstream_networks holds something that is no network") from error


def may_reach(address: str, allowed: Sequence[Network]) -> bool:
    """Tell whether an address is public, or in a network that the operator allows.

    An IPv6 address that carries an IPv4 address is judged as that one.
    """
    ip = ip_address(address.partition("%")[0])
    inner = _embedded(ip)
    if inner is not None:
        ip = inner
    if any(ip.version == network.version and ip in network for network in allowed):
        return True
    # Reserved is what nobody was given, and what carries an IPv4 address in ways that only some networks know.
    return ip.is_global and not (
        ip.is_multicast or ip.is_reserved or (isinstance(ip, IPv6Address) and ip.is_site_local)
    )


def allows(url: str, allowed: Sequence[Network]) -> bool:
    """Tell whether a URL may be asked: a literal address is judged here, since no resolver is asked about one."""
    try:
        return may_reach(URL(url).host or "", allowed)
    except ValueError:
        return True  # a name, which the resolver judges


def _embedded(ip: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(ip, IPv4Address):
        return None
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


class GuardedResolver(AbstractResolver):
    """Names to addresses, without those that may not be reached."""

    def __init__(self, inner: AbstractResolver, allowed: Sequence[Network]) -> None:
        """Ask `inner`, and keep what `may_reach`."""
        self._inner = inner
        self._allowed = allowed

    async def resolve(  # type: ignore[explicit-override] # typing has no `override` before 3.12
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises `Refused` upstream-forbidden when no address is left."""
        found = await self._inner.resolve(host, port, family)
        reachable = [each for each in found if may_reach(each["host"], self._allowed)]
        if not reachable:
            raise Refused("upstream-forbidden", "the address lies in a network that this service may not reach")
        return reachable

    async def close(self) -> None:  # type: ignore[explicit-override] # see above
        """Close what was asked."""
        await self._inner.close()
