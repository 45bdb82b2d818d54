"""`headrace pull`: what it fetches is verified, and what was cut off is gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from engine.commands.pull.command import pull
from engine.errors import StartupError
from models.sources import ranged_download
from models.sources.hub_files import INCOMPLETE
from tests.helpers.fake_hub import FakeHub, running
from tests.helpers.repository import ROOT

WEIGHTS = b"GGUF" * 1_000_000
MODEL = "owner/repo:Q4_K_M"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(ranged_download, "FIRST_WAIT_S", 0.0)
    with running(FakeHub(files={"m-Q4_K_M.gguf": WEIGHTS}, large={"m-Q4_K_M.gguf"})) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


def test_all_that_is_there_is_verified(hub: FakeHub) -> None:
    told: list[tuple[str, int, int, str]] = []
    for _ in range(2):
        assert "is complete and verified, 4.0 MB in " in pull(MODEL, None, lambda *report: told.append(report))
    assert told.count(("verify", len(WEIGHTS), len(WEIGHTS), "B")) == 2
    assert len(hub.ranges_of("m-Q4_K_M.gguf")) == 1


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    pull(MODEL, None, lambda *_: None)
    (blob,) = [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size == len(WEIGHTS)]
    blob.write_bytes(WEIGHTS.replace(b"GGUF", b"GGUX", 1))
    pull(MODEL, None, lambda *_: None)
    assert blob.read_bytes() == WEIGHTS
    assert len(hub.ranges_of("m-Q4_K_M.gguf")) == 2


@pytest.fixture
def damaged_blob(hub: FakeHub, tmp_path: Path) -> Path:
    """Of a model that was pulled."""
    pull(MODEL, None, lambda *_: None)
    (blob,) = [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size == len(WEIGHTS)]
    blob.write_bytes(WEIGHTS.replace(b"GGUF", b"GGUX", 1))
    hub.requests.clear()
    return blob


def test_a_damaged_file_stays_where_the_hub_is_away(hub: FakeHub, damaged_blob: Path) -> None:
    hub.api_status = 503
    before = damaged_blob.read_bytes()
    with pytest.raises(StartupError, match=r"m-Q4_K_M\.gguf of owner/repo:Q4_K_M: damaged on the disk, and "):
        pull(MODEL, None, lambda *_: None)
    assert damaged_blob.read_bytes() == before
    hub.api_status = 200
    assert "is complete and verified" in pull(MODEL, None, lambda *_: None)
    assert damaged_blob.read_bytes() == WEIGHTS


def test_a_damaged_part_of_several_stays_where_the_hub_is_away(hub: FakeHub, tmp_path: Path) -> None:
    parts = {f"m-Q4_K_M-0000{number}-of-00002.gguf": WEIGHTS[:1000] * number for number in (1, 2)}
    hub.files, hub.large = dict(parts), set(parts)
    pull(MODEL, None, lambda *_: None)
    (blob,) = [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size == 2000]
    blob.write_bytes(bytes(2000))
    hub.api_status = 503
    with pytest.raises(StartupError, match=r"m-Q4_K_M-00002-of-00002\.gguf of .*: damaged on the disk"):
        pull(MODEL, None, lambda *_: None)
    assert blob.read_bytes() == bytes(2000)
    assert not list(blob.parent.glob("*.damaged"))


@pytest.mark.usefixtures("hub")
def test_a_path_into_a_cache_is_left_as_it_is(damaged_blob: Path, tmp_path: Path) -> None:
    before = damaged_blob.read_bytes()
    (path,) = tmp_path.rglob("snapshots/*/m-Q4_K_M.gguf")
    assert pull(str(path), None, lambda *_: None) == f"{path} needs no download: {path}"
    assert damaged_blob.read_bytes() == before


def test_a_path_needs_no_download(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    assert pull(str(path), None, lambda *_: None) == f"{path} needs no download: {path}"


def test_ctrl_c_leaves_what_the_next_one_goes_on_from(hub: FakeHub, tmp_path: Path) -> None:
    hub.stalls = [1_500_000]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DOWNLOAD_TIMEOUT": "300",  # else it asks again after 10 s, which a slow machine may take
        "PYTHONPATH": str(ROOT),
    }
    # A signal that is ignored stays so in children, such as in those of a script's background.
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{hears}; import sys; from server.cli import main; sys.exit(main(['pull', {MODEL!r}]))"
    command = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        blobs = tmp_path / "hub" / "models--owner--repo" / "blobs"
        deadline = time.monotonic() + 60
        while sum(path.stat().st_size for path in blobs.glob(f"*{INCOMPLETE}")) < 1_500_000:
            assert time.monotonic() < deadline, "nothing arrives"
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "headrace: stopped; the same command resumes here\n" in error
    assert "Traceback" not in error
    assert "is complete and verified" in pull(MODEL, None, lambda *_: None)
    assert hub.ranges_of("m-Q4_K_M.gguf")[-1] == "bytes=1500000-"
