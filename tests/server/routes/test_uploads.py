"""/v1/uploads as the official client uses it, and what it refuses."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI

from server.config.storage import StorageConfig
from server.files.uploads import LIFE_S, Uploads
from tests.helpers.batches import batch_runner
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.keys import bearer, entry, write_keys
from tests.server.routes.test_files import _context, _official

pytestmark = pytest.mark.fast

LINES = b'{"custom_id": "a"}\n' * 3
NEW: dict[str, Any] = {"bytes": len(LINES), "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}


def _app(**options: object) -> FastAPI:
    return make_app(FakeClient(says("Because.")), **options)


async def _send(api: Any, upload_id: str, data: bytes) -> Any:
    return await api.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("part", data)})


async def _begun(api: Any, **changes: Any) -> str:
    upload_id: str = (await api.post("/v1/uploads", json={**NEW, **changes})).json()["id"]
    return upload_id


async def test_the_official_client_uploads_in_parts_that_come_in_any_order() -> None:
    app = _app()
    async with _official(app) as client:
        upload = await client.uploads.create(**NEW)
        assert (upload.object, upload.status, upload.bytes, upload.filename) == ("upload", "pending", 57, "a.jsonl")
        assert upload.expires_at == upload.created_at + LIFE_S
        pieces = [LINES[40:], LINES[:7], LINES[7:40]]
        parts = await asyncio.gather(*(client.uploads.parts.create(upload.id, data=piece) for piece in pieces))
        assert {part.upload_id for part in parts} == {upload.id}
        done = await client.uploads.complete(
            upload.id, part_ids=[parts[1].id, parts[2].id, parts[0].id], md5=hashlib.md5(LINES).hexdigest()
        )
        assert done.status == "completed"
        assert done.file is not None
        assert (await client.files.retrieve(done.file.id)) == done.file
        assert (done.file.purpose, done.file.bytes) == ("batch", len(LINES))
        assert (await client.files.content(done.file.id)).content == LINES
        assert _context(app).files.disk.names() == [done.file.id], "the parts are gone"


async def test_the_official_client_uploads_a_file_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * 40)
    async with _official(_app()) as client:
        done = await client.uploads.upload_file_chunked(
            file=path, mime_type="application/octet-stream", purpose="user_data", part_size=1000
        )
        assert done.file is not None
        assert (await client.files.content(done.file.id)).content == path.read_bytes()


async def test_a_canceled_upload_takes_no_more_and_leaves_nothing() -> None:
    app = _app()
    async with _official(app) as client:
        upload = await client.uploads.create(**NEW)
        part = await client.uploads.parts.create(upload.id, data=LINES)
        assert (await client.uploads.cancel(upload.id)).status == "cancelled"
        assert _context(app).files.disk.names() == []
        with pytest.raises(openai.BadRequestError, match="the upload is cancelled"):
            await client.uploads.parts.create(upload.id, data=LINES)
        with pytest.raises(openai.BadRequestError, match="the upload is cancelled"):
            await client.uploads.complete(upload.id, part_ids=[part.id])


async def test_a_complete_upload_needs_room_once() -> None:
    async with _official(_app(storage=StorageConfig(files_max_bytes=60))) as client:
        upload = await client.uploads.create(**NEW)
        part = await client.uploads.parts.create(upload.id, data=LINES)
        assert (await client.uploads.complete(upload.id, part_ids=[part.id])).status == "completed"
        with pytest.raises(openai.APIStatusError, match="--files-max-bytes"):
            await client.uploads.create(**NEW)


@pytest.mark.parametrize(("is_expired", "status"), [(False, 400), (True, 404)])
async def test_an_upload_that_ends_while_it_is_completed_is_no_fault_of_the_disks(
    is_expired: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _app()
    context = _context(app)
    async with http(app) as api:
        upload_id = await _begun(api)
        part_id = (await _send(api, upload_id, LINES)).json()["id"]
        loop, disk, uploads = asyncio.get_running_loop(), context.files.disk, Uploads(context.files)
        read = disk.read

        def read_late(name: str, offset: int, size: int) -> bytes:
            now_s = context.files.clock()
            if is_expired:
                context.files.clock = lambda: now_s + LIFE_S
            ending = uploads.expire() if is_expired else uploads.cancel(upload_id, "")
            asyncio.run_coroutine_threadsafe(ending, loop).result()  # type: ignore[arg-type]
            return read(name, offset, size)

        monkeypatch.setattr(disk, "read", read_late)
        answer = await api.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": [part_id]})
    assert answer.status_code == status
    assert "upload" in answer.json()["error"]["message"]
    assert disk.names() == []


async def test_an_upload_ends_after_an_hour_and_its_parts_with_it() -> None:
    app = _app()
    files = _context(app).files
    async with http(app) as api:
        upload_id = await _begun(api)
        await _send(api, upload_id, LINES)
        now_s = files.clock()
        files.clock = lambda: now_s + LIFE_S
        late = await _send(api, upload_id, LINES)
        assert (late.status_code, "the upload is expired" in late.text) == (400, True)
        await Uploads(files).expire()
        assert files.disk.names() == []
        assert (await _send(api, upload_id, LINES)).status_code == 404


async def test_a_restart_keeps_the_parts_of_what_is_pending() -> None:
    app = _app()
    async with http(app) as api:
        upload_id = await _begun(api)
        part_id = (await _send(api, upload_id, LINES)).json()["id"]
        stray = "file-stray"
        _context(app).files.disk.create(stray)
        await batch_runner(app).sweep()
        assert stray not in _context(app).files.disk.names()
        done = await api.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": [part_id]})
        assert done.json()["status"] == "completed"


@pytest.mark.parametrize(
    ("pieces", "order", "md5", "message"),
    [
        ([LINES[:9]], [0], None, "the parts have 9 bytes, and the upload was created for 57"),
        ([LINES], [0, 0], None, "2 times; list each part once"),
        ([LINES], [], None, "part_ids"),
        ([LINES], [0], "0" * 32, "that of the parts in this order is"),
    ],
)
async def test_what_does_not_make_the_file_is_refused_and_can_be_mended(
    pieces: list[bytes], order: list[int], md5: str | None, message: str
) -> None:
    app = _app()
    async with http(app) as api:
        upload_id = await _begun(api)
        ids = [(await _send(api, upload_id, piece)).json()["id"] for piece in pieces]
        body = {"part_ids": [ids[number] for number in order], **({} if md5 is None else {"md5": md5})}
        refused = await api.post(f"/v1/uploads/{upload_id}/complete", json=body)
        assert (refused.status_code, message in refused.text) == (400, True), refused.text
        if pieces == [LINES[:9]]:
            ids.append((await _send(api, upload_id, LINES[9:])).json()["id"])
        done = await api.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": ids})
        assert done.json()["status"] == "completed"
        again = await api.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": ids})
        assert "the upload is completed" in again.text


async def test_parts_of_another_upload_and_too_many_bytes_are_refused() -> None:
    async with http(_app()) as api:
        first, second = await _begun(api), await _begun(api)
        foreign = (await _send(api, first, LINES)).json()["id"]
        refused = await api.post(f"/v1/uploads/{second}/complete", json={"part_ids": [foreign]})
        assert "is not a part of the upload" in refused.text
        too_much = await _send(api, first, b"x")
        assert (too_much.status_code, "58 bytes in 2 parts" in too_much.text) == (400, True)
        assert (await _send(api, second, b"")).status_code == 400


async def test_limits_are_those_of_files() -> None:
    app = _app(storage=StorageConfig(max_file_bytes=100, files_max_bytes=110))
    async with http(app) as api:
        assert (await api.post("/v1/uploads", json={**NEW, "bytes": 101})).status_code == 413
        upload_id = await _begun(api, bytes=60)
        assert (await _send(api, upload_id, b"x" * 60)).status_code == 200
        assert (await api.post("/v1/uploads", json={**NEW, "bytes": 51})).status_code == 507, "parts take room too"


async def test_a_key_sees_its_own_uploads_alone(tmp_path: Path) -> None:
    app = _app(api_keys_file=write_keys(tmp_path / "keys", entry("ann"), entry("bob", admin=True)))
    async with http(app, **bearer("ann")) as api:
        upload_id = await _begun(api)
    async with http(app, **bearer("bob")) as api:
        assert (await _send(api, upload_id, LINES)).status_code == 404
        assert (await api.post(f"/v1/uploads/{upload_id}/cancel")).status_code == 404


@pytest.mark.parametrize("change", [{"bytes": 0}, {"purpose": "fun"}, {"filename": ""}, {"bytes": None}])
async def test_a_wrong_field_is_named(change: dict[str, Any]) -> None:
    async with http(_app()) as api:
        answer = await api.post("/v1/uploads", json={**NEW, **change})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(change)))


async def test_what_has_no_effect_is_told() -> None:
    async with http(_app()) as api:
        answer = await api.post("/v1/uploads", json={**NEW, "frobnicate": 1})
        assert answer.headers["x-ignored-parameters"] == "mime_type, frobnicate"
