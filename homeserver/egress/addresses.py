"""Which addresses the server may connect to of its own accord.

Names and URLs come from strangers, and must not lead into the networks that only this machine can reach. So
only public addresses are connected to, and those that the configuration names. What is asked here is the
address of the connection itself, after all names were resolved and all redirects followed.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from homeserver.config.options import Egress

# The registries of special addresses at IANA; written out, as what Python calls global differs by release.
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        # Within 2000::/3: protocol assignments with Teredo, documentation, 6to4, documentation.
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressPolicy:
    """The rule that a configuration makes."""

    def __init__(self, options: Egress) -> None:
        self._allow = options.allow_networks
        self._deny = options.deny_networks

    def allows(self, text: str) -> bool:
        """Whether to connect to an address, given as text; what is not an address is not connected to."""
        try:
            address = _meant(ip_address(text))
        except ValueError:
            return False
        if any(address in network for network in self._allow):
            return True
        return _is_public(address) and not any(address in network for network in self._deny)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address leads to, if it does, else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _NOT_PUBLIC)
