"""The page of the API's description comes from the server itself, and runs nothing else."""

import gzip
import re

import pytest

from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast


async def test_the_document_says_where_a_proxy_put_the_server() -> None:
    for prefix, url in (("", "/"), ("/llm", "/llm")):
        async with http(make_app(FakeClient(says("x")), root_path=prefix)) as api:
            document = (await api.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        assert {"/v1/chat/completions", "/v1/models/{name}", "/live"} <= document["paths"].keys()
        assert document["paths"]["/live"]["get"]["security"] == []
        assert document["servers"] == [{"url": url}]


async def test_the_page_loads_from_this_server_alone() -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("key",))) as api:
        page = await api.get("/docs")
        loaded = [name for name in re.findall(r'(?:src|href)="([^"]*)"', page.text) if name != "data:,"]  # no icon
        assets = [await api.get(f"/{name}") for name in loaded]
    assert len(loaded) == 3
    assert [asset.status_code for asset in assets] == [200] * 3
    assert all(not re.match(r"(/|\w+:)", name) for name in loaded)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("name", "part"), [("swagger-ui-bundle.js", b"SwaggerUIBundle"), ("swagger-ui.css", b".swagger-ui")]
)
async def test_assets_come_packed_or_plain(name: str, part: bytes) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        packed = await api.get(f"/docs/{name}", headers={"accept-encoding": "gzip"})
        plain = await api.get(f"/docs/{name}", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content  # the client has unpacked it
    assert part in plain.content
    assert len(gzip.compress(plain.content, 9)) < 600_000


@pytest.mark.parametrize("name", ["other.js", "swagger-ui.css.gz", "..%2fdocument.py", ""])
async def test_nothing_else_is_given(name: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        assert (await api.get(f"/docs/{name}")).status_code == 404
