"""is_local: whether the other end of a connection is on this machine."""

import ipaddress


def is_local(peer: tuple[str, int] | None) -> bool:
    """peer: as the socket has it; None is that of a Unix socket, which has no address and cannot be reached from
    elsewhere."""
    if peer is None:
        return True
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 client of a socket for both
    return (mapped or address).is_loopback
