"""A prefix that a proxy takes off, or leaves on."""

import re

import pytest

from engine.errors import OptionError
from server.config.server import ServerConfig
from server.http.middleware.root_path import RootPath
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

ROUTES = ("/v1/models", "/docs", "/docs/{name}", "/api/tags", "/openapi.json", "/live")


def _app(root_path: str) -> RootPath:
    return RootPath(make_app(FakeClient(says("x")), root_path=root_path, api_key=("k",)), root_path, ROUTES)


@pytest.mark.parametrize("seen", ["", "/llm"], ids=["taken off", "left on"])
async def test_all_paths_work_under_the_prefix(seen: str) -> None:
    """seen: what the server sees of the prefix."""
    async with http(_app("/llm")) as api:  # type: ignore[arg-type]
        assert (await api.get(f"{seen}/live")).status_code == 200
        assert (await api.get(f"{seen}/v1/models")).status_code == 401  # a key is asked for below the prefix too
        models = await api.get(f"{seen}/v1/models", headers={"authorization": "Bearer k"})
        assert models.status_code == 200
        document = (await api.get(f"{seen}/openapi.json")).json()
        page = await api.get(f"{seen}/docs")
        loaded = [name for name in re.findall(r'(?:src|href)="([^"]*)"', page.text) if name != "data:,"]
        assets = [await api.get(f"{seen}/{name}") for name in loaded]  # relative to /llm/docs in the browser
    assert document["servers"] == [{"url": "/llm"}]
    assert loaded
    assert {asset.status_code for asset in assets} == {200}


async def test_a_prefix_of_the_apis_own_is_always_taken_off() -> None:
    async with http(_app("/v1")) as api:  # type: ignore[arg-type]
        assert (await api.get("/v1/models", headers={"authorization": "Bearer k"})).status_code == 200
        assert (await api.get("/models")).status_code == 401  # /v1/models to the proxy, and no route of ours


@pytest.mark.parametrize("path", ["/llm2/live", "/LLM/live"])
async def test_what_only_looks_like_the_prefix_is_none(path: str) -> None:
    async with http(_app("/llm")) as api:  # type: ignore[arg-type]
        assert (await api.get(path)).status_code == 401


@pytest.mark.parametrize("root_path", ["llm", "/llm/", "/", "/a b", "/a?b", "/ä"])
def test_a_prefix_that_is_none_is_refused(root_path: str) -> None:
    with pytest.raises(OptionError, match=r"--root-path is .*; it must be a path such as /llm, without a / at its end"):
        ServerConfig(root_path=root_path)
    assert ServerConfig(root_path="/a/b-c_1").root_path == "/a/b-c_1"
