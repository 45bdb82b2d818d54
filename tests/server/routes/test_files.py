"""/v1/files as clients use it, with the official one, and what it refuses."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
from fastapi import FastAPI

from server.config.storage import StorageConfig
from server.context import ServerContext
from server.files.disk import FolderDisk
from server.keys.caller import name_owner
from server.schemas.files import FILE_PURPOSES
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.keys import bearer, entry, secret, write_keys

pytestmark = pytest.mark.fast

LINES = b'{"custom_id": "a"}\n' * 3


def _app(**options: object) -> FastAPI:
    return make_app(FakeClient(says("Because.")), **options)


def _official(app: FastAPI, key: str = "none") -> openai.AsyncOpenAI:
    """The official client, which calls the application directly."""
    import httpx2

    transport = httpx2.ASGITransport(app)
    client = httpx2.AsyncClient(transport=transport, base_url="http://server/v1")
    return openai.AsyncOpenAI(base_url="http://server/v1", api_key=key, http_client=client, max_retries=0)


def _context(app: FastAPI) -> ServerContext:
    context: ServerContext = app.state.context
    return context


async def _post(
    app: FastAPI, data: dict[str, Any] | None = None, file: Any = ("a.jsonl", LINES), **headers: str
) -> Any:
    async with http(app, **headers) as client:
        files = {} if file is None else {"file": file}
        return await client.post("/v1/files", data={"purpose": "batch"} if data is None else data, files=files)


async def test_the_official_client_uploads_reads_lists_and_deletes(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(LINES)
    async with _official(_app()) as client:
        made = await client.files.create(
            file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
        )
        assert (made.object, made.filename, made.purpose, made.bytes) == ("file", "lines.jsonl", "batch", len(LINES))
        assert made.id.startswith("file-")
        assert made.expires_at == made.created_at + 7200
        assert await client.files.retrieve(made.id) == made
        assert await client.files.wait_for_processing(made.id) == made
        assert (await client.files.content(made.id)).content == LINES
        assert [each async for each in await client.files.list()] == [made]
        deleted = await client.files.delete(made.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "file", True)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.files.content(made.id)


async def test_lists_come_in_pages() -> None:
    async with _official(_app()) as client:
        made = [
            (await client.files.create(file=(f"{i}", b"x"), purpose="evals" if i % 2 else "user_data")).id
            for i in range(5)
        ]
        newest = made[::-1]
        assert [each.id async for each in await client.files.list(limit=2)] == newest  # which asks for three pages
        first = await client.files.list(limit=2)
        assert [each.id for each in first.data] == newest[:2]
        assert first.has_more
        assert [each.id async for each in await client.files.list(order="asc", after=made[1])] == made[2:]
        assert [each.id async for each in await client.files.list(purpose="evals")] == [made[3], made[1]]
        with pytest.raises(openai.BadRequestError, match="there is no such file"):
            await client.files.list(after="file-none")


async def test_a_purpose_that_no_file_can_have_is_refused_with_those_that_there_are() -> None:
    async with _official(_app()) as client:
        with pytest.raises(openai.BadRequestError, match=r"purpose is 'zzz'; it must be .*'batch'") as refused:
            await client.files.list(purpose="zzz")
        assert refused.value.param == "purpose"
        for purpose in FILE_PURPOSES:
            assert (await client.files.list(purpose=purpose)).data == []
            assert purpose in refused.value.message


async def test_only_files_of_batches_expire_unless_they_say_so() -> None:
    app = _app(storage=StorageConfig(batch_max_age=100.0))
    batch = (await _post(app)).json()
    other = (await _post(app, {"purpose": "user_data"})).json()
    assert (batch["expires_at"], other["expires_at"]) == (batch["created_at"] + 100, None)
    files = _context(app).files
    now_s = files.clock()
    files.clock = lambda: now_s + 101
    async with http(app) as client:
        assert [each["id"] for each in (await client.get("/v1/files")).json()["data"]] == [other["id"]]
        assert (await client.get(f"/v1/files/{batch['id']}")).status_code == 404
    assert await files.expire() == 1
    assert files.disk.names() == [other["id"]]


async def test_a_key_sees_its_own_files_alone(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", entry("ann"), entry("bob"), entry("root", admin=True))
    app = _app(api_keys_file=keys)
    made = (await _post(app, **bearer("ann"))).json()
    for name in ("bob", "root"):
        async with http(app, **bearer(name)) as client:
            assert (await client.get("/v1/files")).json()["data"] == []
            for path in (f"/v1/files/{made['id']}", f"/v1/files/{made['id']}/content"):
                assert (await client.get(path)).status_code == 404
            assert (await client.delete(f"/v1/files/{made['id']}")).status_code == 404
    async with _official(app, secret("ann")) as client:
        assert (await client.files.content(made["id"])).content == LINES
    assert await _context(app).files.find(made["id"], name_owner("ann")) is not None


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "fun"}, "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        (
            {"purpose": "batch", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after.anchor",
        ),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after.seconds",
        ),
        ({"purpose": "batch", "expires_after": "1"}, "expires_after"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_left(data: dict[str, str], param: str) -> None:
    app = _app()
    answer = await _post(app, data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert _context(app).files.disk.names() == []


async def test_a_form_without_a_file_is_refused() -> None:
    app = _app()
    async with http(app) as client:
        head = {"content-type": "multipart/form-data; boundary=b"}
        body = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
        answer = await client.post("/v1/files", content=body, headers=head)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
        for content, kind in ((b"{}", "application/json"), (b"--b\r\n", "multipart/form-data; boundary=b")):
            answer = await client.post("/v1/files", content=content, headers={"content-type": kind})
            assert answer.status_code == 400
        assert _context(app).files.disk.names() == []


async def test_unknown_fields_are_listed_and_the_file_may_come_first() -> None:
    app = _app()
    part = '--b\r\ncontent-disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    body = part.format("file", '; filename="x"', "hello") + part.format("purpose", "", "evals")
    body += part.format("mood", "", "good") + "--b--\r\n"
    async with http(app) as client:
        head = {"content-type": "multipart/form-data; boundary=b"}
        answer = await client.post("/v1/files", content=body.encode(), headers=head)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-parameters"] == "mood"
    assert answer.json()["bytes"] == 5


@pytest.mark.parametrize(
    ("given", "shown"),
    [("../../etc/passwd", "passwd"), ("C:\\a\\b.jsonl", "b.jsonl"), ("", "file"), ("a\nb", "ab"), ("/", "file")],
)
async def test_a_filename_is_no_path(given: str, shown: str) -> None:
    app = _app()
    part = f'--b\r\ncontent-disposition: form-data; name="file"; filename="{given}"\r\n\r\nx\r\n'
    if given != quote(given, safe="/."):
        encoded = quote(given, safe="")
        part = f"--b\r\ncontent-disposition: form-data; name=\"file\"; filename*=UTF-8''{encoded}\r\n\r\nx\r\n"
    body = part + '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nevals\r\n--b--\r\n'
    async with http(app) as client:
        head = {"content-type": "multipart/form-data; boundary=b"}
        answer = await client.post("/v1/files", content=body.encode(), headers=head)
    assert answer.json()["filename"] == shown, answer.text
    assert _context(app).files.disk.names() == [answer.json()["id"]]


async def test_limits_are_told_and_leave_nothing() -> None:
    app = _app(storage=StorageConfig(max_file_bytes=100, max_files=2, files_max_bytes=150))
    answer = await _post(app, file=("a", b"x" * 101))
    assert (answer.status_code, "--max-file-bytes" in answer.text) == (413, True)
    assert (await _post(app, file=("a", b"x" * 100))).status_code == 200
    answer = await _post(app, file=("a", b"x" * 100))
    assert (answer.status_code, "--files-max-bytes" in answer.text) == (507, True)
    assert answer.json()["error"]["code"] == "insufficient_storage"
    assert answer.headers["x-should-retry"] == "false"
    assert (await _post(app, file=("a", b"x"))).status_code == 200
    answer = await _post(app, file=("a", b"x"))
    assert (answer.status_code, "--max-files" in answer.text) == (507, True)
    assert len(_context(app).files.disk.names()) == 2


async def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    class FullDisk(FolderDisk):
        def write(self, name: str, offset: int, data: bytes) -> None:
            if offset:
                super().write(name, offset, data[:10])
                raise OSError(28, "No space left on device")
            super().write(name, offset, data)

    app = _app()
    files = _context(app).files
    files.disk = FullDisk(tmp_path / "files")
    answer = await _post(app, file=("a", b"x" * (5 << 20)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
    assert files.disk.names() == []
    assert await files.totals() == (0, 0)


async def test_a_client_that_goes_away_leaves_nothing() -> None:
    app = _app()
    disk = _context(app).files.disk
    head = [(b"host", b"server"), (b"content-type", b"multipart/form-data; boundary=b")]
    request = RawRequest(app, "/v1/files", {"not": "a form, and not looked at"}, headers=head)
    request.truncate_body()
    async with request:
        await request.until(lambda: disk.names() != [])
        request.disconnect()
        await request.ended()
    assert _context(app).files.disk.names() == []


async def test_a_foreign_page_cannot_upload() -> None:
    app = _app()
    assert (await _post(app, origin="http://evil.example")).status_code == 400
    assert (await _post(app, origin="http://server", authorization="Bearer x")).status_code == 200


async def test_a_start_removes_what_is_no_file() -> None:
    app = _app()
    made = (await _post(app)).json()
    files = _context(app).files
    files.disk.create("file-stray")
    assert await files.sweep() == 1
    assert files.disk.names() == [made["id"]]


async def test_content_is_sent_in_parts_as_asked() -> None:
    app = _app()
    made = (await _post(app)).json()
    async with http(app) as client:
        path = f"/v1/files/{made['id']}/content"
        whole = await client.get(path)
        assert whole.headers["content-disposition"] == "attachment; filename*=UTF-8''a.jsonl"
        part = await client.get(path, headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, LINES[2:6])
    assert json.loads(whole.content.splitlines()[0]) == {"custom_id": "a"}
