"""OPERATORS_ONLY, METRICS_READERS: FastAPI dependencies that restrict routes to the server's operator."""

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import Scope

from server.errors import InsufficientPermissions
from server.http.connections.connection import PEER_STATE
from server.http.connections.peer import is_local
from server.http.middleware.own_names import host_name, is_address
from server.keys.caller import ANYBODY, caller_of

# A proxy on this machine is a local peer for remote clients. These headers show a proxy, or a web page.
_OF_OTHERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def is_operators(scope: Scope) -> bool:
    """Return whether the request is an operator's.

    If the server has keys, an operator sends an admin's key. Without keys, an operator is a client on this machine, by
    the connection's peer address; headers of a proxy or a web page can only disprove this.
    """
    caller = caller_of(scope)
    return caller.is_operator or (caller is ANYBODY and _is_from_here(scope))


def require_operator(scope: Scope) -> None:
    """Raise InsufficientPermissions unless the request is an operator's, as `is_operators` decides."""
    if is_operators(scope):
        return
    if caller_of(scope) is ANYBODY:
        raise InsufficientPermissions(
            "this is for the server's operator; it has no keys, so ask from its own machine, without a proxy or a web "
            "page in between, or start it with --api-key and send that key"
        )
    raise InsufficientPermissions("this is for the server's operator; send an admin's key")


def _is_from_here(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if any(name in headers for name in _OF_OTHERS) or not _is_from_no_other_page(scope, headers):
        return False
    state = scope["state"]
    return is_local(state[PEER_STATE] if PEER_STATE in state else scope.get("client"))


def _is_from_no_other_page(scope: Scope, headers: Headers) -> bool:
    """Return whether the request comes from a program, or from this server's own pages: browsers mark those of pages
    with Sec-Fetch-Site, except on plain HTTP from other machines, and each POST with Origin."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if site == "none" and origin is None:
        return True
    if site not in ("none", "same-origin") or origin not in (None, f"{scope['scheme']}://{headers.get('host', '')}"):
        return False
    # A foreign page's name may resolve to this machine.
    return (name := host_name(headers)) == "localhost" or is_address(name)


async def _operator(request: Request) -> None:  # FastAPI runs dependencies that are not coroutines in threads
    require_operator(request.scope)


async def _metrics_reader(request: Request) -> None:
    caller = caller_of(request.scope)
    if not (caller.reads_metrics or caller.is_operator):
        raise InsufficientPermissions("metrics cover all keys' requests; send an admin's key, or one for metrics")


OPERATORS_ONLY = Depends(_operator)
METRICS_READERS = Depends(_metrics_reader)
