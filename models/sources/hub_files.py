"""fetch_large_files: the large files of a hub's repository, into the places where huggingface_hub looks for them.

huggingface_hub begins a broken download anew, and compares no hashes. So what the hub stores apart as large files
(weights, mostly) is fetched here, into <cache>/models--OWNER--REPO/blobs/SHA256. Until it is complete and its hash is
right it is called SHA256.incomplete, from where the next try goes on. huggingface_hub then finds these blobs and makes
the snapshot.
"""

import errno
import logging
import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import SourceError
from models.progress import ProgressReport
from models.sources.ranged_download import DownloadError, DownloadRefused, download, make_client
from models.system.file_lock import exclusive_lock

logger = logging.getLogger(__name__)

_NUM_CONNECTIONS = 4
_SPARE_BYTES = 64 << 20  # of the disk, for the repository's small files
_REPORT_S = 0.1
_SHA256 = re.compile("[0-9a-f]{64}")
INCOMPLETE = ".incomplete"  # as huggingface_hub names it
FETCHING = ".fetching"  # locked by the process that fetches the blob


@dataclass(frozen=True, slots=True)
class _LargeFile:
    """sha256: hexadecimal, the name of the blob."""

    path: str  # within the repository
    size: int
    sha256: str
    url: str


class _WrongHash(Exception):
    """What has arrived is not the file that the hub lists."""


def http_errors() -> tuple[type[Exception], ...]:
    """Return the base of errors of the HTTP library that this version of huggingface_hub uses: requests, httpx or
    httpx2.
    """
    from huggingface_hub.errors import HfHubHTTPError

    own = ("huggingface_hub", "builtins")
    return tuple(base for base in HfHubHTTPError.__mro__ if base.__module__.partition(".")[0] not in own)


def fetch_large_files(
    repo: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str], progress: ProgressReport
) -> None:
    """Fetch those that match and are not there; nothing if the hub cannot be asked. Raises SourceError or OSError."""
    from huggingface_hub.utils import build_hf_headers

    blobs = _blobs_folder(repo)
    listed = {file.sha256: file for file in _list(repo, revision, patterns, ignored)}  # two names may have one content
    files = [file for file in listed.values() if not (blobs / file.sha256).exists()]
    if not files:
        return
    blobs.mkdir(parents=True, exist_ok=True)
    _check_room(repo, blobs, files)
    total = _Total(f"download {repo}", sum(file.size for file in files), progress)
    with make_client(build_hf_headers(library_name="headrace")) as client:
        _fetch_all(client, files, blobs, repo, total)


def _fetch_all(client: Any, files: Sequence[_LargeFile], blobs: Path, repo: str, total: "_Total") -> None:
    """Raises the first error of a file; what is under way then ends with its next piece."""
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
            except Exception as error:  # noqa: BLE001 (raised by the thread that waits, which would else wait for ever)
                outcomes.put(error)

    for _ in range(min(_NUM_CONNECTIONS, len(files))):  # daemons: a process that is ended waits for no server
        threading.Thread(target=work, name="download", daemon=True).start()
    try:
        for _ in files:
            if (error := outcomes.get()) is not None:
                raise error
    finally:
        total.is_stopped = True


class _Total:
    """Bytes of all files together, reported by any thread. Once it is stopped, a thread's next piece ends its work."""

    def __init__(self, stage: str, size: int, progress: ProgressReport) -> None:
        self._stage = stage
        self._size = size
        self._progress = progress
        self._done = 0
        self._told_s = 0.0
        self._lock = threading.Lock()
        self.is_stopped = False

    def add(self, count: int) -> None:
        if self.is_stopped:
            raise DownloadError("stopped")
        with self._lock:
            self._done += count
            now_s = time.monotonic()
            if self._done == self._size or now_s - self._told_s >= _REPORT_S:
                self._told_s = now_s
                self._progress(self._stage, self._done, self._size, "B")

    def warn(self, trouble: str) -> None:
        if self.is_stopped:
            raise DownloadError("stopped")
        logger.warning("%s", trouble)

    def say(self, stage: str) -> None:
        with self._lock:
            self._progress(stage, 0, 0, "B")


def hub_cache() -> Path:
    """Return the folder of huggingface_hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _blobs_folder(repo: str) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return hub_cache() / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"


def _list(repo: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str]) -> list[_LargeFile]:
    """Nothing if the hub cannot be asked: huggingface_hub then finds what is cached, or the words for it.

    Raises SourceError for what is no hash: it becomes a file's name, and a mirror may answer anything.
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


def _check_room(repo: str, blobs: Path, files: Sequence[_LargeFile]) -> None:
    arrived = sum(min(file.size, size) for file in files for size in _sizes(blobs / f"{file.sha256}{INCOMPLETE}"))
    needed = sum(file.size for file in files) - arrived + _SPARE_BYTES
    free = shutil.disk_usage(blobs).free
    if needed > free:
        raise SourceError(
            f"hub repository {repo!r} needs {needed / 1e9:.1f} GB more in {str(blobs.parent.parent)!r}, and the disk "
            f"has {free / 1e9:.1f} GB free; free some space (headrace models lists what is cached), or set HF_HOME to "
            "a folder on another disk"
        )


def _sizes(path: Path) -> Iterator[int]:
    if path.exists():
        yield path.stat().st_size


def _fetch(client: Any, file: _LargeFile, blobs: Path, repo: str, total: _Total) -> None:
    """Raises SourceError or OSError."""
    blob = blobs / file.sha256
    try:
        with exclusive_lock(
            blobs / f"{file.sha256}{FETCHING}", lambda: total.say("wait for another download of the model")
        ):
            if blob.exists():  # the process that had the lock before has fetched it
                total.add(file.size)
                return
            try:
                _fetch_checked(client, file, blob, total)
            except _WrongHash:  # a disk or a connection may have failed once
                _fetch_checked(client, file, blob, total)
    except DownloadRefused as error:
        remedy = "check the name and --revision"
        if error.status in (401, 403):
            remedy = "accept its terms on the repository's page, and set HF_TOKEN"
        raise SourceError(f"cannot download {file.path} of hub repository {repo!r}: {error}; {remedy}") from error
    except DownloadError as error:
        raise SourceError(
            f"cannot download {file.path} of hub repository {repo!r}: {error}; try again: the download resumes there"
        ) from error
    except _WrongHash as error:
        raise SourceError(
            f"{file.path} of hub repository {repo!r} arrives with another content than the hub lists (its SHA-256 is "
            "wrong, twice); a proxy or mirror may alter it: try another network, or another HF_ENDPOINT"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceError(
                f"the disk of {str(blobs)!r} is full; free some space (headrace models lists what is cached), or set "
                "HF_HOME to a folder on another disk; the download then resumes"
            ) from error
        raise


def _fetch_checked(client: Any, file: _LargeFile, blob: Path, total: _Total) -> None:
    """Raises _WrongHash, without what has arrived."""
    incomplete = blob.with_name(f"{blob.name}{INCOMPLETE}")
    if download(client, file.url, incomplete, file.size, total.add, total.warn) != file.sha256:
        incomplete.unlink()
        total.add(-file.size)
        raise _WrongHash
    incomplete.replace(blob)
