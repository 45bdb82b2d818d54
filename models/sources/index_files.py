"""Finds the URL and SHA-256 of the wheel that pip is downloading, in pip's log and the package index's page."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

import httpx

_DOWNLOADING = re.compile(r"^(?:\S+ )?\s*Downloading (?P<what>\S+\.whl) \(", re.MULTILINE)
_LINK = re.compile(r"Found link (?P<url>\S+) \(from (?P<page>\S+)\)")
_SHA256 = re.compile("[0-9a-f]{64}")
_JSON = {"accept": "application/vnd.pypi.simple.v1+json"}
_TIMEOUT_S = 5.0  # pip continues in the meantime


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A wheel in a package index. sha256: hexadecimal."""

    name: str
    url: str
    sha256: str
    size: int


def find_index_file(client: httpx.Client, log: str) -> IndexFile | None:
    """Return the wheel that pip is downloading, or None if there is none yet, or only pip can fetch it.

    log: the output of pip -vvv so far.
    """
    downloading = _DOWNLOADING.search(log)
    if downloading is None:
        return None
    name = _file_name(downloading["what"])
    link = next((link for link in _LINK.finditer(log) if _file_name(link["url"]) == name), None)
    if link is None:
        return None
    try:
        url, fragment = urldefrag(link["url"])
        sha256 = fragment.removeprefix("sha256=") if fragment else _listed_sha256(client, link["page"], name)
        head = client.head(url, timeout=_TIMEOUT_S)
        size = int(head.headers.get("content-length", 0))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, StopIteration):
        return None
    if head.status_code != httpx.codes.OK or size <= 0 or _SHA256.fullmatch(sha256) is None:
        return None
    return IndexFile(name, url, sha256, size)


def is_downloading(log: str) -> bool:
    """Whether pip has started to download a wheel, by its log."""
    return _DOWNLOADING.search(log) is not None


def _file_name(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _listed_sha256(client: httpx.Client, page: str, name: str) -> str:
    """Return the SHA-256 of the file `name` in the index's page.

    Errors of a page that is malformed or lacks the file pass through; find_index_file catches them.
    """
    answer = client.get(page, headers=_JSON, timeout=_TIMEOUT_S).raise_for_status().json()
    return next(str(file["hashes"]["sha256"]) for file in answer["files"] if file["filename"] == name)
