"""is_local: whether the other end of a connection is on this machine."""

import ipaddress


def is_local(peer: tuple[str, int] | None) -> bool:
    """peer: as the socket has it; None is that of a Unix socket, which has no address and cannot be reached from
    elsewhere."""
    return peer is None or is_loopback(peer[0])


def is_loopback(address: str) -> bool:
    """Whether only this machine is reached by it, or comes from it. A name is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # an IPv4 client of a socket for both
    return (mapped or parsed).is_loopback
