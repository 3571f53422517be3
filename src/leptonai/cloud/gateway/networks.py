"""Addresses and the networks that may call: what allow-lists and lists of trusted proxies are made of."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Raises ValueError for what is no address or network."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def within(address: str, allowed: tuple[Network, ...]) -> bool:
    """Whether `address` is in one of the networks; all are, if there are none."""
    if not allowed:
        return True
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.version == 6 and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in allowed if network.version == ip.version)
