"""is_local: whether the other end of a connection is on this machine."""

import ipaddress


def is_local(peer: tuple[str, int] | None) -> bool:
    """Whether the peer is on this machine. peer: the socket's peer address; None for a Unix socket, which is local."""
    return peer is None or is_loopback(peer[0])


def is_loopback(address: str) -> bool:
    """Whether the text is a loopback address; False for a host name."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # an IPv4 client of a dual-stack socket
    return (mapped or parsed).is_loopback
