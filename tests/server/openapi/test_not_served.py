"""docs/protocols.md lists paths that are not served, and they are not."""

import re

import pytest

from server.routes.docs import OPERATIONS
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_SECTION = (ROOT / "docs" / "protocols.md").read_text().partition("\n## Not served\n")[2]
_PATHS = re.findall(r"`(/[\w/-]+)`", _SECTION)


@pytest.mark.parametrize("path", _PATHS)
async def test_a_path_that_is_listed_as_not_served_is_not(path: str) -> None:
    assert not [name for name in OPERATIONS if re.match(rf"{path}(/|$)", name.split()[1])]
    async with http(make_app(FakeClient(says("Because.")))) as client:
        assert {(await client.request(method, path)).status_code for method in ("GET", "POST")} == {404}


def test_openais_and_other_servers_paths_are_listed() -> None:
    assert {"/v1/images", "/completion", "/ping"} <= set(_PATHS)
