"""The pages for browsers come whole from this server, without a key, and small."""

import gzip
import re
from importlib import resources

import pytest

from server.pages.files import NAMES, page_file
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

_BROWSER = {"accept": "text/html,application/xhtml+xml"}
_FONT = "vendor/STIXTwoMath.woff2"  # comes with the first formula
_FOR_PDFS = frozenset({"vendor/pdf.js", "vendor/pdf.worker.js", "vendor/cmaps.bin"})  # come with the first PDF
_MAX_BYTES = 300_000  # of all other files, packed

_LOADS = re.compile(r'(?:from|import)\s*\(?\s*"(\.[^"]*)"')


def _text(name: str) -> str:
    return page_file(name).plain.decode()


def _imports(name: str) -> set[str]:
    """What a script loads, as names of files."""
    found = set()
    for relative in _LOADS.findall(_text(name)):
        parts = name.split("/")[:-1]
        for part in relative.split("/"):
            if part == "..":
                parts.pop()
            elif part != ".":
                parts.append(part)
        found.add("/".join(parts))
    return found


async def test_a_browser_gets_the_page_and_all_its_parts_without_a_key() -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("key",))) as api:
        page = await api.get("/", headers=_BROWSER)
        loaded = set(re.findall(r'(?:src|href)="(assets/[^"]*)"', page.text))
        seen: set[str] = set()
        waiting = {name.removeprefix("assets/") for name in loaded}
        while waiting:
            name = waiting.pop()
            seen.add(name)
            answer = await api.get(f"/assets/{name}")
            assert answer.status_code == 200, name
            if name.endswith(".js"):
                waiting |= _imports(name) - seen
        refused = await api.get("/v1/models")
    assert page.status_code == 200
    assert {"chat/main.js", "chat.css", "vendor/marked.js", "vendor/temml.js"} <= seen
    assert refused.status_code == 401


async def test_the_page_runs_and_asks_nothing_but_this_server() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        page = await api.get("/", headers=_BROWSER)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", page.text)  # what the policy would refuse
    # Relative addresses: a proxy may have put the server under a prefix.
    assert not re.search(r'(?:src|href)="(?:/|\w+:)', page.text)


async def test_programs_that_look_for_a_server_get_a_line_of_text() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = await api.get("/", headers={"accept": "*/*"})
    assert answer.text == "headrace is running"


async def test_an_unchanged_file_is_not_sent_again() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        first = await api.get("/assets/chat.css")
        again = await api.get("/assets/chat.css", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


@pytest.mark.parametrize("name", ["other.js", "chat/main.js.gz", "..%2ffiles.py", "chat.html", "vendor/README.md", ""])
async def test_nothing_else_is_given(name: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        assert (await api.get(f"/assets/{name}")).status_code == 404


def test_all_files_together_are_small() -> None:
    assert sum(len(page_file(name).packed) for name in NAMES - {_FONT} - _FOR_PDFS) < _MAX_BYTES
    assert sum(len(page_file(name).packed) for name in _FOR_PDFS) < 1_000_000


def test_packed_and_plain_are_the_same() -> None:
    place = resources.files("server.pages").joinpath("assets/chat.css")
    assert gzip.decompress(page_file("chat.css").packed) == place.read_bytes()
