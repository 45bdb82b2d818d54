"""Characters of several tokens are never split, and broken ones do no harm."""

import pytest

from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast


async def _both(data: bytes, per_step: int) -> tuple[str, list[str]]:
    """The text of a whole answer, and the deltas of a streamed one."""
    async with http(make_app(FakeClient(says(data, per_step=per_step)))) as api:
        whole = (await api.post("/v1/completions", json={"prompt": "a"})).json()
        response = await api.post("/v1/completions", json={"prompt": "a", "stream": True})
    *chunks, _ = events(response.text)
    return whole["choices"][0]["text"], [chunk["choices"][0]["text"] for chunk in chunks]


@pytest.mark.parametrize("per_step", [1, 2, 3, 5])
@pytest.mark.parametrize("text", ["日本語", "🙂🙃", "👩‍👩‍👧", "e\u0301", "line\u2028break", "\x00\x1f\x7f", "\r\n\n\r"])
async def test_characters_arrive_whole(text: str, per_step: int) -> None:
    whole, deltas = await _both(text.encode(), per_step)
    assert whole == "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize("per_step", [1, 2])
@pytest.mark.parametrize(
    "data", [b"a\xff\xfeb", "日".encode()[:2] + b"a", b"\xe6\x97", b"\xed\xa0\x80", b"\xf0\x9f\x99"]
)
async def test_broken_bytes_become_replacement_characters(data: bytes, per_step: int) -> None:
    whole, deltas = await _both(data, per_step)
    assert whole == "".join(deltas) == data.decode(errors="replace")


async def test_a_cut_character_shows_only_at_the_end() -> None:
    whole, _ = await _both("日本".encode()[:5], 1)
    assert whole == "日\ufffd"
