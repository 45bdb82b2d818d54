"""Whose cached prefixes a key's requests find."""

from collections.abc import Callable

import pytest

from engine.grammar.lanes import GrammarKey
from server.text import known_pieces
from server.text.known_pieces import KnownPieces
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.key_site import TEXT, Site
from tests.helpers.keys import entry

pytestmark = pytest.mark.fast


async def _salts(here: Site, *names: str, salt: str | None = None) -> list[str]:
    for name in names:
        async with here.api(name) as api:
            await api.post("/v1/completions", json={**TEXT, "cache_salt": salt} if salt else TEXT)
    return [request.cache_salt for request in here.client.requests[-len(names) :]]


async def test_cached_prefixes_are_a_keys_own(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"), entry("x", cache_group="team"), entry("y", cache_group="team"))
    ann, ben, again, x, y = await _salts(here, "ann", "ben", "ann", "x", "y")
    assert ann == again
    assert x == y
    assert len({ann, ben, x}) == 3
    (salted,) = await _salts(here, "ann", salt="mine")
    (forged,) = await _salts(here, "ben", salt=ann)
    assert len({ann, ben, salted, forged}) == 4
    assert await _salts(here, "ann", salt="mine") == [salted]


async def test_known_token_ids_and_grammars_are_a_keys_own_too(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[str] = []
    encode = KnownPieces._encode_behind

    def counted(self: KnownPieces, control: str, piece: str, at_most: int | None) -> list[int]:
        tokenized.append(piece)
        return encode(self, control, piece, at_most)

    here = site(entry("ann"), entry("ben"), entry("x", cache_group="team"), entry("y", cache_group="team"))
    messages = [{"role": "user", "content": "word " * 15}]
    body = {"messages": messages, "response_format": {"type": "json_object"}}
    monkeypatch.setattr(KnownPieces, "_encode_behind", counted)
    monkeypatch.setattr(known_pieces, "_MIN_CHARACTERS", 32)
    seen = []
    for name in ("ann", "ann", "ben", "x", "y"):
        tokenized.clear()
        async with here.api(name) as api:
            answer = await api.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert (await api.post("/tokenize", json={"messages": messages})).status_code == 200
        seen.append(sum("word word" in piece for piece in tokenized))
    assert seen == [1, 0, 1, 1, 0]
    ann, _, ben, x, y = (GrammarKey(request.cache_salt, request.grammar or "") for request in here.client.requests)
    assert ann.text == ben.text != ""
    assert len({ann, ben, x}) == 3
    assert x == y


async def test_a_keys_salt_cannot_be_made_up_by_a_key_without_a_name(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), api_key=("plain",))
    (ann,) = await _salts(here, "ann")
    async with http(here.app, authorization="Bearer plain") as plain:
        await plain.post("/v1/completions", json={**TEXT, "cache_salt": ann})
    assert here.client.requests[-1].cache_salt != ann


async def test_cached_prefixes_are_shared_where_that_is_asked_for(site: Callable[..., Site]) -> None:
    here = site(entry("ann"), entry("ben"), entry("x", cache_group="team"), share_prefix_cache=True)
    ann, ben, x = await _salts(here, "ann", "ben", "x")
    assert ann == ben == ""
    assert x != ann
    forged, plain = await _salts(here, "ann", salt=x) + await _salts(here, "ann", salt="mine")
    assert (forged, plain) == (f"0:{x}", "mine")


async def test_without_keys_salts_are_the_requests_own() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        for body in (TEXT, {**TEXT, "cache_salt": "mine"}):
            await api.post("/v1/completions", json=body)
    assert [request.cache_salt for request in client.requests] == ["", "mine"]
    assert {(request.tenant, request.tenant_weight) for request in client.requests} == {("", 1.0)}


# --- usage ------------------------------------------------------------------------------------------------------------
