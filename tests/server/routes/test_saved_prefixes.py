"""Named prefixes with blocks on disk: they are saved, loaded, and found by the next server."""

import asyncio
import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from server.prefixes import computing, named
from server.prefixes.files import PrefixFiles, PrefixRecord
from tests.helpers.fake_client import FakeClient, engine_info, http, make_app, says
from tests.server.routes.test_cache import TEXT, _restored

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "POLL_S", 0.0)
    monkeypatch.setattr(computing, "POLL_S", 0.0)
    monkeypatch.setattr(computing, "_WRITE_AGAIN_S", -1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fingerprint"


def _server(folder: Path) -> tuple[FastAPI, FakeClient]:
    client = FakeClient(says("x"), engine_info(kv_folder=str(folder)))
    return make_app(client), client


async def _post(app: FastAPI, action: str, **body: Any) -> tuple[int, Any]:
    async with http(app) as api:
        response = await api.post(f"/v1/cache/{action}", json={"name": "shop", **body})
    return response.status_code, response.json()


async def _listed(app: FastAPI) -> list[tuple[str, str]]:
    async with http(app) as api:
        return [(each["name"], each["where"]) for each in (await api.get("/v1/cache")).json()["data"]]


async def test_a_prefix_is_saved_when_all_its_blocks_are_on_disk(folder: Path) -> None:
    app, client = _server(folder)
    status, answer = await _post(app, "save", prompt=TEXT)
    fields = ("tokens", "blocks", "where", "memory_blocks", "disk_blocks")
    assert (status, [answer[name] for name in fields]) == (200, [48, 3, "memory", 3, 3])
    assert len(client.requests) == 1
    (file,) = folder.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("shop.json", 0o600)


async def test_the_next_server_knows_saved_names_and_loads_them(folder: Path) -> None:
    await _post(_server(folder)[0], "save", prompt=TEXT)
    app, client = _server(folder)
    client.saved["shop"] = 3
    before = await _listed(app)
    status, answer = await _post(app, "load")
    assert (before, status, answer["where"]) == ([("shop", "disk")], 200, "memory")
    assert [len(request.prompt_ids) for request in client.requests] == [len(TEXT) + 1]
    assert client.pinned == {}


async def test_pins_return_with_the_next_server(folder: Path) -> None:
    app, _ = _server(folder)
    await _post(app, "pin", prompt=TEXT)
    await _post(app, "save", name="saved", prompt=TEXT)
    app, client = _server(folder)
    await _restored(app, client)
    assert list(client.pinned) == ["shop"]
    assert await _listed(app) == [("saved", "memory"), ("shop", "pinned")]


async def test_a_deleted_name_does_not_return(folder: Path) -> None:
    app, _ = _server(folder)
    await _post(app, "pin", prompt=TEXT)
    async with http(app) as api:
        await api.delete("/v1/cache/shop")
    assert await _listed(_server(folder)[0]) == []
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("change", ["delete", "replace", "remove the folder"])
async def test_a_name_that_is_gone_is_unpinned(folder: Path, change: str) -> None:
    (app, client), (other, _) = _server(folder), _server(folder)
    await _post(app, "pin", prompt=TEXT)
    if change == "delete":
        async with http(other) as api:
            assert (await api.delete("/v1/cache/shop")).status_code == 200
    elif change == "replace":
        await _post(other, "pin", prompt=TEXT[::-1])
    else:
        shutil.rmtree(folder)
    assert client.pinned
    assert await _listed(app) == ([("shop", "none")] if change == "replace" else [])
    assert client.pinned == {}


async def test_a_name_is_not_unpinned_while_it_is_pinned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is missing then, and other requests look at the files."""
    app, client = _server(folder)
    write = PrefixFiles.write

    def late_write(files: PrefixFiles, record: PrefixRecord) -> None:
        may_write.wait(30)
        write(files, record)

    may_write = threading.Event()
    monkeypatch.setattr(PrefixFiles, "write", late_write)
    pin = asyncio.create_task(_post(app, "pin", prompt=TEXT))
    while not client.pinned:
        await asyncio.sleep(0)
    await _listed(app)
    may_write.set()
    assert (await pin)[0] == 200
    assert await _listed(app) == [("shop", "pinned")]


async def test_a_prefix_beyond_the_bound_of_the_disk_is_refused_before_it_is_computed(folder: Path) -> None:
    info = engine_info(kv_folder=str(folder))
    block_bytes = info.kv_bytes // info.num_blocks
    client = FakeClient(says("x"), msgspec.structs.replace(info, kv_folder_bytes=3 * block_bytes - 1))
    status, answer = await _post(make_app(client), "save", prompt=TEXT)
    assert status == 400
    assert "(--kv-offload-max-bytes)" in answer["error"]["message"]
    assert client.requests == []


async def test_load_takes_no_other_prefix(folder: Path) -> None:
    app, _ = _server(folder)
    await _post(app, "save", prompt=TEXT)
    status, answer = await _post(app, "load", prompt=TEXT)
    assert (status, answer["error"]["param"]) == (400, "prompt")


async def test_saving_a_pinned_name_keeps_the_pin_unless_the_prefix_is_another(folder: Path) -> None:
    app, client = _server(folder)
    await _post(app, "pin", prompt=TEXT)
    await _post(app, "save", prompt=TEXT)
    assert list(client.pinned) == ["shop"]
    client.saved.clear()
    await _post(app, "save", prompt=TEXT[::-1])
    assert client.pinned == {}


@pytest.mark.parametrize("action", ["load", "pin"])
async def test_an_unknown_name_is_not_found(folder: Path, action: str) -> None:
    status, answer = await _post(_server(folder)[0], action)
    assert (status, answer["error"]["code"]) == (404, "prefix_not_found")


async def test_without_a_folder_nothing_can_be_saved() -> None:
    status, answer = await _post(make_app(FakeClient(says("x"))), "save", prompt=TEXT)
    assert status == 400
    assert "--kv-offload-dir" in answer["error"]["message"]


async def test_a_disk_that_takes_too_little_fails_the_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "_SAVE_PATIENCE_S", 0.0)
    app, client = _server(folder)
    client.max_saved = 2
    status, answer = await _post(app, "save", prompt=TEXT)
    assert (status, answer["error"]["code"]) == (500, "storage_failed")
    assert "of the 3 blocks of the prefix 'shop' are on disk" in answer["error"]["message"]
    assert await _listed(app) == []


async def test_a_full_disk_costs_no_pin(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, client = _server(folder)
    await _post(app, "pin", prompt=TEXT)
    first = client.pinned["shop"]

    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PrefixFiles, "write", write)
    again = [(await _post(app, action))[0] for action in ("pin", "load", "save", "pin")]
    others = [(await _post(app, action, prompt=TEXT[::-1]))[0] for action in ("pin", "save")]
    new = await _post(app, "pin", name="new", prompt=TEXT)
    assert (again, others, new[0]) == ([200] * 4, [500] * 2, 500)
    assert client.pinned == {"shop": first}
    assert await _listed(app) == [("shop", "pinned")]
    assert caplog.text.count("No space left on device") == 1
    client.pinned.clear()
    await _restored(app, client)
    assert client.pinned == {"shop": first}


async def test_files_that_are_not_a_prefix_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = _server(folder)
    await _post(app, "save", prompt=TEXT)
    good = (folder / "shop.json").read_bytes()
    (folder / "torn.json").write_bytes(good[:40])
    (folder / "ids.json").write_bytes(good.replace(b'"prompt_ids":[', b'"prompt_ids":[99999999,'))
    (folder / "open.json").write_bytes(good)
    (folder / "open.json").chmod(0o666)
    (folder / "link.json").symlink_to("shop.json")
    os.mkfifo(folder / "pipe.json")
    shutil.copy(folder / "shop.json", folder / "renamed.json")
    for _ in range(2):
        assert await _listed(app) == [("shop", "memory")]
    for name in ("torn", "ids", "open", "link", "pipe"):
        assert caplog.text.count(f"{name}.json is not used") == 1


async def test_a_folder_that_others_may_write_to_is_not_used(folder: Path) -> None:
    app, _ = _server(folder)
    await _post(app, "save", prompt=TEXT)
    os.chmod(folder, 0o777)
    status, answer = await _post(app, "load")
    assert (status, answer["error"]["code"]) == (500, "storage_failed")
    assert "other users may write to it" in answer["error"]["message"]
