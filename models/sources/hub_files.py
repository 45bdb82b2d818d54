"""Download of a hub repository's large files into huggingface_hub's cache, resumable and verified by hash.

huggingface_hub restarts a broken download from the beginning, and compares no hashes. So the files that the hub stores
as large files (weights, mostly) are fetched here, into <cache>/models--OWNER--REPO/blobs/SHA256. The name is
SHA256.incomplete until the file is complete and its hash is right; the next try resumes from there. huggingface_hub
then finds these blobs and makes the snapshot.
"""

import contextlib
import errno
import logging
import queue
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import SourceError
from models.progress import ByteCounter, ProgressReport
from models.sources.ranged_download import DownloadError, DownloadRefused, download_verified, make_client
from models.system.files import exclusive_lock

logger = logging.getLogger(__name__)

_NUM_CONNECTIONS = 4
_SPARE_BYTES = 64 << 20  # of the disk, for the repository's small files
_SHA256 = re.compile("[0-9a-f]{64}")
INCOMPLETE = ".incomplete"  # huggingface_hub's name for it
FETCHING = ".fetching"  # locked by the process that fetches the blob


@dataclass(frozen=True, slots=True)
class _LargeFile:
    """A file of the repository to fetch. sha256: hexadecimal, the name of its blob in the cache."""

    path: str  # within the repository
    size: int
    sha256: str
    url: str


def http_errors() -> tuple[type[Exception], ...]:
    """Return the base classes of errors of huggingface_hub's HTTP library: requests, httpx or httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    own = ("huggingface_hub", "builtins")
    return tuple(base for base in HfHubHTTPError.__mro__ if base.__module__.partition(".")[0] not in own)


def fetch_large_files(
    repo: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str], progress: ProgressReport
) -> None:
    """Fetch the large files that match `patterns` and are not cached; do nothing if the hub cannot be reached.

    Raises SourceError if a file cannot be downloaded or does not fit on the disk, OSError if writing fails.
    """
    from huggingface_hub.utils import build_hf_headers

    blobs = _blobs_folder(repo)
    listed = {file.sha256: file for file in _list(repo, revision, patterns, ignored)}  # two names may have one content
    files = [file for file in listed.values() if not (blobs / file.sha256).exists()]
    if not files:
        return
    blobs.mkdir(parents=True, exist_ok=True)
    _check_free_space(repo, blobs, files)
    total = _Total(f"download {repo}", sum(file.size for file in files), progress)
    with make_client(build_hf_headers(library_name="headrace")) as client:
        _fetch_all(client, files, blobs, repo, total)


def _fetch_all(client: Any, files: Sequence[_LargeFile], blobs: Path, repo: str, total: "_Total") -> None:
    """Fetch files in parallel. Raises the first error; the other downloads then stop at their next piece."""
    waiting: queue.SimpleQueue[_LargeFile] = queue.SimpleQueue()
    for file in files:
        waiting.put(file)
    outcomes: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def work() -> None:
        while not total.is_stopped:
            try:
                file = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                _fetch(client, file, blobs, repo, total)
                outcomes.put(None)
            except Exception as error:  # noqa: BLE001 (raised by the waiting thread, which would else wait forever)
                outcomes.put(error)

    for _ in range(min(_NUM_CONNECTIONS, len(files))):  # daemons, so that an ending process waits for no server
        threading.Thread(target=work, name="download", daemon=True).start()
    try:
        for _ in files:
            if (error := outcomes.get()) is not None:
                raise error
    finally:
        total.is_stopped = True


class _Total:
    """The progress of all downloads together, counted by their threads.

    Once `is_stopped` is set, counting a piece raises DownloadError, which ends the thread's work.
    """

    def __init__(self, stage: str, size: int, progress: ProgressReport) -> None:
        self._counter = ByteCounter(stage, size, progress)
        self.is_stopped = False

    def add(self, count: int) -> None:
        if self.is_stopped:
            raise DownloadError("stopped")
        self._counter.add(count)

    def warn(self, trouble: str) -> None:
        if self.is_stopped:
            raise DownloadError("stopped")
        logger.warning("%s", trouble)

    def report_waiting(self) -> None:
        self._counter.report_stage("wait for another download of the model")


def hub_cache() -> Path:
    """Return the folder of huggingface_hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _blobs_folder(repo: str) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return hub_cache() / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"


def _list(repo: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str]) -> list[_LargeFile]:
    """Return the repository's large files that match `patterns`; empty if the hub cannot be reached.

    In that case huggingface_hub, called afterwards, finds cached files or explains the failure. Raises SourceError if a
    mirror sends a malformed hash, since it becomes a file's name.
    """
    from huggingface_hub import HfApi, errors, hf_hub_url
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi(library_name="headrace")
    try:
        commit = api.model_info(repo, revision=revision).sha
        listed: list[Any] = list(api.list_repo_tree(repo, recursive=True, revision=commit))
    except http_errors():
        return []
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HFValidationError, OSError):
        return []
    large = [entry for entry in listed if getattr(entry, "lfs", None) is not None]
    matching = filter_repo_objects(
        large, allow_patterns=list(patterns), ignore_patterns=list(ignored), key=lambda entry: str(entry.path)
    )
    return [
        _LargeFile(
            entry.path, entry.lfs.size, _checked_hash(entry, repo), hf_hub_url(repo, entry.path, revision=commit)
        )
        for entry in matching
    ]


def _checked_hash(entry: Any, repo: str) -> str:
    given = entry.lfs.sha256
    if not isinstance(given, str) or _SHA256.fullmatch(given) is None:
        raise SourceError(
            f"the hub lists {entry.path} of hub repository {repo!r} with {given!r:.80}, which is not a SHA-256; try "
            "another HF_ENDPOINT"
        )
    return given


def _check_free_space(repo: str, blobs: Path, files: Sequence[_LargeFile]) -> None:
    needed = sum(file.size for file in files) + _SPARE_BYTES
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            needed -= min(file.size, (blobs / f"{file.sha256}{INCOMPLETE}").stat().st_size)
    free = shutil.disk_usage(blobs).free
    if needed > free:
        raise SourceError(
            f"hub repository {repo!r} needs {needed / 1e9:.1f} GB more in {str(blobs.parent.parent)!r}, and the disk "
            f"has {free / 1e9:.1f} GB free; free some space (headrace models lists what is cached), or set HF_HOME to "
            "a folder on another disk"
        )


def _fetch(client: Any, file: _LargeFile, blobs: Path, repo: str, total: _Total) -> None:
    """Fetch a file unless another process has fetched it.

    Raises SourceError if the download fails or its hash is wrong, OSError if writing fails.
    """
    blob = blobs / file.sha256
    try:
        with exclusive_lock(blobs / f"{file.sha256}{FETCHING}", total.report_waiting):
            if blob.exists():  # the last holder of the lock has fetched it
                total.add(file.size)
                return
            incomplete = blob.with_name(f"{file.sha256}{INCOMPLETE}")
            if not download_verified(client, file.url, incomplete, file.size, file.sha256, total.add, total.warn):
                raise SourceError(
                    f"{file.path} of hub repository {repo!r} is not the file that the hub lists (its SHA-256 is wrong, "
                    "twice); a proxy or mirror may alter it: try another network, or another HF_ENDPOINT"
                )
            incomplete.replace(blob)
    except DownloadRefused as error:
        remedy = "check the name and --revision"
        if error.status in (401, 403):
            remedy = "accept its terms on the repository's page, and set HF_TOKEN"
        raise SourceError(f"cannot download {file.path} of hub repository {repo!r}: {error}; {remedy}") from error
    except DownloadError as error:
        raise SourceError(
            f"cannot download {file.path} of hub repository {repo!r}: {error}; try again: the download resumes there"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceError(
                f"the disk of {str(blobs)!r} is full; free some space (headrace models lists what is cached), or set "
                "HF_HOME to a folder on another disk; the download then resumes"
            ) from error
        raise
