"""Download of a file over HTTP that resumes from a partial file, also after broken connections."""

import hashlib
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

import httpx

_MAX_TRIES = 5  # in a row, without a byte
FIRST_WAIT_S = 1.0  # after some bytes; twice as long for each failure in a row without a byte
_MAX_WAIT_S = 60.0
_TIMEOUT = httpx.Timeout(30.0, pool=None)
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(Exception):
    """The download failed for now, for the reason in the message; the partial file stays for the next try."""


class DownloadRefused(DownloadError):
    """The server refuses to send the file."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def make_client(headers: dict[str, str], authorities: ssl.SSLContext | Literal[True] = True) -> httpx.Client:
    """Return a client for any number of concurrent downloads. Redirects to another host drop the authorization.

    authorities: the certificate authorities to trust; True for the public ones.
    """
    headers = {**headers, "accept-encoding": "identity"}
    return httpx.Client(headers=headers, follow_redirects=True, timeout=_TIMEOUT, verify=authorities)


def download(
    client: httpx.Client,
    url: str,
    target: Path,
    size: int,
    on_bytes: Callable[[int], object],
    on_trouble: Callable[[str], object],
) -> str:
    """Complete the file `target`, which may be partial, to `size` bytes, and return its SHA-256.

    on_bytes(count) is called with the bytes that exist, then for each piece; a negative count takes bytes back.
    on_trouble(message) is called before each retry. Exceptions of the callbacks pass through.
    Raises DownloadError, or OSError if the file cannot be written.
    """
    with target.open("a+b", buffering=0) as file:  # unbuffered, so that received bytes outlive this process
        beginning = _Beginning(file, size, on_bytes)
        failures = 0
        while beginning.length < size:
            before = beginning.length
            problem = _resume(client, url, beginning)
            failures = 0 if beginning.length > before else failures + 1
            if beginning.length == size:
                break
            if failures >= _MAX_TRIES:
                raise DownloadError(f"{problem.reason} after {beginning.length:,} of {size:,} bytes")
            wait_s = FIRST_WAIT_S * 2**failures if problem.wait_s is None else problem.wait_s
            on_trouble(f"{problem.reason} after {beginning.length:,} of {size:,} bytes; trying again in {wait_s:g} s")
            time.sleep(wait_s)
        os.fsync(file.fileno())
        return beginning.digest.hexdigest()


def download_verified(
    client: httpx.Client,
    url: str,
    target: Path,
    size: int,
    sha256: str,
    on_bytes: Callable[[int], object],
    on_trouble: Callable[[str], object],
) -> bool:
    """Complete `target` like `download`; retry once if its SHA-256 is wrong. Return whether it matches.

    A disk or a connection may fail once. `target` is deleted if its hash is wrong.
    """
    for _ in range(2):
        if download(client, url, target, size, on_bytes, on_trouble) == sha256:
            return True
        target.unlink()
        on_bytes(-size)
    return False


@dataclass(frozen=True, slots=True)
class _Problem:
    """The reason why a connection ended early. wait_s: seconds that the server asks clients to wait, or None."""

    reason: str
    wait_s: float | None = None


class _Beginning:
    """The partial file: the bytes received so far, and their SHA-256. 0 <= length <= size."""

    def __init__(self, file: FileIO, size: int, on_bytes: Callable[[int], object]) -> None:
        self._file = file
        self._size = size
        self._on_bytes = on_bytes
        file.seek(0)
        self.digest = hashlib.file_digest(file, "sha256")
        self.length = file.tell()
        on_bytes(self.length)
        if self.length > size:
            self.clear()

    def append(self, piece: bytes) -> None:
        """Append received bytes. Raises DownloadError if the file becomes longer than its size."""
        if self.length + len(piece) > self._size:
            self.clear()
            raise DownloadError(f"the server sends more than the {self._size:,} bytes that the file has")
        rest = memoryview(piece)
        while rest:  # an unbuffered file may write only a part
            rest = rest[self._file.write(rest) :]
        self.digest.update(piece)
        self.length += len(piece)
        self._on_bytes(len(piece))

    def clear(self) -> None:
        self._file.truncate(0)
        self._on_bytes(-self.length)
        self.length = 0
        self.digest = hashlib.sha256()


def _resume(client: httpx.Client, url: str, beginning: _Beginning) -> _Problem:
    """Request and append the missing bytes; return why the response ended. Raises DownloadError if it is refused."""
    offset = beginning.length
    try:
        with client.stream("GET", url, headers={"range": f"bytes={offset}-"} if offset else {}) as response:
            if response.status_code in _BUSY:
                return _Problem(_status(response), _requested_wait(response))
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                beginning.clear()  # the bytes are not the beginning of this file
                return _Problem(_status(response))
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise DownloadRefused(_status(response), response.status_code)
            if offset and not _starts_at(response, offset):
                beginning.clear()  # the server does not support ranges and sends the whole file
            for piece in response.iter_raw():
                beginning.append(piece)
        return _Problem("the connection ended")
    except httpx.TimeoutException:
        return _Problem("the server did not answer in time")
    except httpx.ConnectError as error:
        return _Problem(f"no connection ({error})")
    except httpx.TransportError:
        return _Problem("the connection broke")
    except (httpx.RequestError, httpx.InvalidURL) as error:  # too many redirects, or a malformed one
        raise DownloadError(f"the server's answer leads nowhere ({error})") from error


def _status(response: httpx.Response) -> str:
    return f"the server answers {response.status_code} {response.reason_phrase}".rstrip()


def _requested_wait(response: httpx.Response) -> float | None:
    seconds = str(response.headers.get("retry-after", ""))
    return min(float(seconds), _MAX_WAIT_S) if seconds.isdecimal() else None


def _starts_at(response: httpx.Response, offset: int) -> bool:
    content_range = str(response.headers.get("content-range", ""))
    return response.status_code == httpx.codes.PARTIAL_CONTENT and content_range.startswith(f"bytes {offset}-")
