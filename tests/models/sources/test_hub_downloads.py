"""Downloads from a hub: they resume, are compared with the hub's hashes, and explain failures."""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from models.errors import SourceError
from models.sources import hub_files, ranged_download
from models.sources.resolve import ModelFiles, resolve_model
from tests.helpers.fake_hub import COMMIT, FakeHub, running

WEIGHTS = bytes(range(256)) * 20_000  # 5 MB
Progress = list[tuple[str, int, int, str]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(ranged_download, "FIRST_WAIT_S", 0.0)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:  # noqa: ARG001 (where it is stored)
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"x"}
    with running(FakeHub(files=files, large={"model.safetensors"})) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


def fetch(model: str = "owner/repo", revision: str | None = None) -> tuple[ModelFiles, Progress]:
    told: Progress = []
    return resolve_model(model, revision, lambda *report: told.append(report)), told


def incomplete(cache: Path) -> Path:
    return cache / "models--owner--repo" / "blobs" / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete"


def test_a_snapshot_has_what_the_hub_has(hub: FakeHub, cache: Path) -> None:
    files, told = fetch()
    assert files.folder == cache / "models--owner--repo" / "snapshots" / COMMIT
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (files.folder / "README.md").exists()
    assert ("download owner/repo", len(WEIGHTS), len(WEIGHTS), "B") in told
    assert hub.ranges_of("model.safetensors") == [""]


def test_what_is_there_is_not_fetched_again(hub: FakeHub) -> None:
    fetch()
    before = len(hub.ranges_of("model.safetensors"))
    fetch()
    assert len(hub.ranges_of("model.safetensors")) == before


def test_a_broken_connection_goes_on_at_once(hub: FakeHub) -> None:
    hub.cuts = [1_000_000, 2_000_000]
    files, told = fetch()
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges_of("model.safetensors") == ["", "bytes=1000000-", "bytes=3000000-"]
    done = [report[1] for report in told if report[0] == "download owner/repo"]
    assert done == sorted(done)


def test_a_later_start_goes_on_where_the_first_gave_up(hub: FakeHub, cache: Path) -> None:
    hub.cuts = [3_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError, match=r"model\.safetensors of hub repository 'owner/repo': .*3,000,000.*resumes"):
        fetch()
    assert incomplete(cache).stat().st_size == 3_000_000
    hub.cuts, hub.requests = [], []
    files, _ = fetch()
    assert hub.ranges_of("model.safetensors") == ["bytes=3000000-"]
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not incomplete(cache).exists()


def test_a_hub_without_ranges_sends_all_again(hub: FakeHub) -> None:
    hub.has_ranges, hub.cuts = False, [3_000_000]
    files, _ = fetch()
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_beginning_of_another_file_is_found_out(hub: FakeHub, cache: Path) -> None:
    incomplete(cache).parent.mkdir(parents=True)
    incomplete(cache).write_bytes(b"x" * 1_000_000)
    files, _ = fetch()
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges_of("model.safetensors") == ["bytes=1000000-", ""]


def test_a_beginning_longer_than_the_file(hub: FakeHub, cache: Path) -> None:
    incomplete(cache).parent.mkdir(parents=True)
    incomplete(cache).write_bytes(WEIGHTS + b"x")
    fetch()
    assert hub.ranges_of("model.safetensors") == [""]


def test_another_content_than_the_hub_lists_is_refused(hub: FakeHub, cache: Path) -> None:
    hub.served["model.safetensors"] = b"x" * len(WEIGHTS)
    with pytest.raises(SourceError, match="SHA-256 is wrong, twice"):
        fetch()
    assert len(hub.ranges_of("model.safetensors")) == 2
    assert not list((cache / "models--owner--repo" / "blobs").glob(f"{hashlib.sha256(WEIGHTS).hexdigest()}*"))


def test_more_than_the_hub_lists_is_refused(hub: FakeHub) -> None:
    hub.served["model.safetensors"] = WEIGHTS + b"x"
    with pytest.raises(SourceError, match="sends more than the 5,120,000 bytes"):
        fetch()


@pytest.mark.parametrize("listed", ["../../../../outside", "/tmp/outside", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_hash_that_is_none_becomes_no_file(hub: FakeHub, cache: Path, listed: str) -> None:
    hub.hashes["model.safetensors"] = listed
    with pytest.raises(SourceError, match=r"lists model\.safetensors of .*, which is not a SHA-256"):
        fetch()
    assert hub.ranges_of("model.safetensors") == []
    assert not list(cache.parent.rglob("*outside*"))


@pytest.mark.parametrize("location", ["/owner/repo/resolve/main/model.safetensors", "ftp://127.0.0.1/x", "http://["])
def test_an_address_that_leads_nowhere(hub: FakeHub, location: str) -> None:
    hub.redirects["model.safetensors"] = location
    with pytest.raises(SourceError, match=r"cannot download model\.safetensors of hub repository 'owner/repo'"):
        fetch()


@pytest.mark.usefixtures("hub")
def test_an_error_of_any_kind_ends_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(hub_files, "download_verified", fail)
    with pytest.raises(RuntimeError, match="not foreseen"):  # it waited for ever
        fetch()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(hub: FakeHub, status: int) -> None:
    hub.statuses = [status, status]
    fetch()
    assert len(hub.ranges_of("model.safetensors")) == 3


def test_a_hub_that_stays_busy(hub: FakeHub) -> None:
    hub.statuses = [429] * 9
    with pytest.raises(SourceError, match="the server answers 429 Too Many Requests after 0 of 5,120,000 bytes"):
        fetch()


@pytest.mark.parametrize(("status", "remedy"), [(403, "set HF_TOKEN"), (404, "check the name and --revision")])
def test_a_refused_file(hub: FakeHub, status: int, remedy: str) -> None:
    hub.statuses = [status]
    with pytest.raises(SourceError, match=rf"model\.safetensors .*: the server answers {status} .*{remedy}"):
        fetch()
    assert len(hub.ranges_of("model.safetensors")) == 1


def test_a_gated_repository_needs_the_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(SourceError, match=r"is gated: .*HF_TOKEN"):
        fetch()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    files, _ = fetch()
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("owner/other", None, "'owner/other' does not exist"),
        ("owner/repo", "v9", "at revision 'v9' does not exist"),
        ("owner/repo:Q4_K_M", None, r"has no \.gguf file for 'Q4_K_M'"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have(model: str, revision: str | None, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        fetch(model, revision)


def test_a_hub_that_limits_rates(hub: FakeHub) -> None:
    hub.api_status = 429
    with pytest.raises(SourceError, match="not in the local cache, and the hub answers 429"):
        fetch()


def test_a_hub_that_cannot_be_reached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="not in the local cache, and the hub cannot be reached"):
        fetch()


def test_one_file_of_a_gguf_repository(hub: FakeHub) -> None:
    hub.files = {"m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": b"GGUF" * 1000}
    hub.large = set(hub.files)
    files, _ = fetch("owner/repo:Q4_K_M")
    assert [path.read_bytes() == WEIGHTS for path in files.gguf] == [True]
    assert hub.ranges_of("m-Q8_0.gguf") == []


def test_a_disk_without_room_is_told_before_anything_arrives(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match=r"needs 0\.1 GB more in .*0\.0 GB free; .*headrace models.*HF_HOME"):
        fetch()
    assert hub.ranges_of("model.safetensors") == []
    assert not incomplete(cache).exists()


@pytest.mark.usefixtures("hub")
def test_a_disk_that_becomes_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_files, "download_verified", full)
    with pytest.raises(SourceError, match=r"the disk of .* is full; .*the download then resumes"):
        fetch()
