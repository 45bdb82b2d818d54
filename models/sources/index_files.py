"""find_file: where the wheel is that pip is downloading, and its SHA-256, from pip's log and the index's page."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

import httpx

_DOWNLOADING = re.compile(r"^(?:\S+ )?\s*Downloading (?P<what>\S+\.whl) \(", re.MULTILINE)
_LINK = re.compile(r"Found link (?P<url>\S+) \(from (?P<page>\S+)\)")
_SHA256 = re.compile("[0-9a-f]{64}")
_JSON = {"accept": "application/vnd.pypi.simple.v1+json"}
_TIMEOUT_S = 5.0  # pip goes on meanwhile


@dataclass(frozen=True, slots=True)
class IndexFile:
    """name: of the wheel. sha256: hexadecimal."""

    name: str
    url: str
    sha256: str
    size: int


def find_file(client: httpx.Client, log: str) -> IndexFile | None:
    """log: of pip with -vvv, as far as it is. None if the file cannot be had without pip, which knows passwords."""
    downloading = _DOWNLOADING.search(log)
    if downloading is None:
        return None
    name = _file_name(downloading["what"])
    link = next((link for link in _LINK.finditer(log) if _file_name(link["url"]) == name), None)
    if link is None:
        return None
    try:
        url, fragment = urldefrag(link["url"])
        sha256 = fragment.removeprefix("sha256=") if fragment else _listed(client, link["page"], name)
        head = client.head(url, timeout=_TIMEOUT_S)
        size = int(head.headers.get("content-length", 0))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, StopIteration):
        return None
    if head.status_code != httpx.codes.OK or size <= 0 or _SHA256.fullmatch(sha256) is None:
        return None
    return IndexFile(name, url, sha256, size)


def is_asked_for(log: str) -> bool:
    """Whether pip has begun to download a wheel."""
    return _DOWNLOADING.search(log) is not None


def _file_name(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _listed(client: httpx.Client, page: str, name: str) -> str:
    """Return the SHA-256 in the index's page. Raises what any part of it may."""
    answer = client.get(page, headers=_JSON, timeout=_TIMEOUT_S).raise_for_status().json()
    return next(str(file["hashes"]["sha256"]) for file in answer["files"] if file["filename"] == name)
