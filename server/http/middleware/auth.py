"""AuthMiddleware: authenticates each request by its API key."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import HeadraceError
from server.errors import ForeignName
from server.http.middleware.own_names import FOREIGN_NAME_STATE, host_name
from server.keys.caller import ANYBODY, Caller, set_current_caller
from server.keys.ring import KeyRing
from server.metrics.request_record import current_record
from server.pages.files import NAMES as page_names
from server.paths import PROBES, route_path
from server.schemas.base import quote

# The description of the API is the same for all servers of a version, and a page cannot send a key for its files.
_DESCRIPTION = frozenset(
    {"/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/start.js"}
)
# The pages' files have no data of this server. The pages request their data with a key.
_PAGES = frozenset({"/", "/dashboard", *(f"/assets/{name}" for name in page_names)})
OPEN_PATHS = PROBES | _DESCRIPTION | _PAGES

COUNTED_STATE = "counted"  # in a scope's state: the share of its key's rate that the request takes


class AuthMiddleware:
    """Requires a key, if the server has keys, on every path except OPEN_PATHS. New routes are closed by default.

    A POST counts against the request limit of its key, unless the server has no room or no engine for it.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing, known_paths: frozenset[str]) -> None:
        """known_paths: paths of the routes; only these are recorded for requests that are refused before routing."""
        self._app = app
        self._ring = ring
        self._known_paths = known_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := route_path(scope)) not in OPEN_PATHS:
            try:
                self._admit(scope)
            except HeadraceError:
                if path in self._known_paths and (record := current_record()) is not None:
                    record.route = path
                raise
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Set the request's caller, and count a POST for its key. Raises InvalidApiKey, ForeignName or RateLimited."""
        headers = Headers(scope=scope)
        key, record = _given_key(headers), current_record()
        if record is not None:
            record.has_key = bool(key)
        caller = self._ring.find(key) if self._ring.asks_for_keys else _anybody(scope)
        set_caller(scope, caller)
        is_request = scope["method"] == "POST"
        if record is not None:
            record.key_name, record.is_usage = caller.name, is_request
        if is_request and caller.account is not None:
            scope["state"][COUNTED_STATE] = caller.account.count_request()


def _anybody(scope: Scope) -> Caller:
    """Return the anonymous caller, for a server without keys. Raises ForeignName for a foreign host name."""
    if FOREIGN_NAME_STATE in scope["state"]:
        name = quote(host_name(Headers(scope=scope)))
        raise ForeignName(
            f"a program on the server's own machine asks for the host {name}, a name that a web page may have pointed "
            "here; ask for localhost, or start the server with --api-key, or with --allowed-hosts and the name"
        )
    return ANYBODY


def _given_key(headers: Headers) -> bytes:
    """Return the key from the bearer token (OpenAI and most others) or from x-api-key (Anthropic)."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    return given.strip().encode("latin-1")


def set_caller(scope: Scope, caller: Caller) -> None:
    """Set the request's caller in the ASGI scope, for routes, and in the task's context, for all other code."""
    scope["state"].update(caller=caller, owner=caller.owner)
    set_current_caller(caller)
