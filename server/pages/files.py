"""Static files of the web pages: found when the server starts, read and compressed at their first request."""

import functools
import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".woff2": "font/woff2",
    ".bin": "application/octet-stream",
}
# Only the pages' own scripts run, and they talk only to this server. Styles have no 'unsafe-inline' either, so text of
# a model cannot draw over a page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_PACKED = ".gz"  # libraries are stored compressed


@dataclass(frozen=True, slots=True)
class PageFile:
    """One static file, ready to send."""

    media_type: str
    packed: bytes  # gzip
    etag: str

    @property
    def plain(self) -> bytes:
        return gzip.decompress(self.packed)


def _find(folder: Traversable, prefix: str) -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _find(entry, f"{prefix}{entry.name}/")
        elif any(entry.name.removesuffix(_PACKED).endswith(suffix) for suffix in _MEDIA_TYPES):
            found[prefix + entry.name.removesuffix(_PACKED)] = entry
    return found


# Name, such as "chat/main.js" -> resource.
_RESOURCES = _find(resources.files("server.pages").joinpath("assets"), "")
NAMES = frozenset(_RESOURCES)


@functools.cache
def page_file(name: str) -> PageFile:
    """Return the static file of that name. Raises KeyError if the name is not in NAMES."""
    resource = _RESOURCES[name]
    data = resource.read_bytes()
    packed = data if resource.name.endswith(_PACKED) else gzip.compress(data, 9, mtime=0)
    suffix = name[name.rindex(".") :]
    return PageFile(_MEDIA_TYPES[suffix], packed, f'"{hashlib.blake2b(packed, digest_size=12).hexdigest()}"')
