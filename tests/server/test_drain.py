"""Draining can be taken back, stopping cannot."""

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.drain import Drain
from server.errors import AlreadyStopping
from server.served.model import ServedModel
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast


@given(st.lists(st.sampled_from(["begin", "stop", "cancel"]), max_size=12))
def test_nothing_new_is_taken_from_the_first_word_to_the_last(events: list[str]) -> None:
    drain = Drain()
    began_s: int | None = None
    is_stopping = False
    for now_s, event in enumerate(events):
        if event == "cancel" and is_stopping:
            with pytest.raises(AlreadyStopping):
                drain.cancel()
            continue
        match event:
            case "begin":
                drain.start(now_s)
            case "stop":
                drain.stop(now_s)
            case "cancel":
                drain.cancel()
        is_stopping = is_stopping or event == "stop"
        began_s = None if event == "cancel" else now_s if began_s is None else began_s
        assert (drain.started_s, drain.is_stopping, drain.is_active) == (began_s, is_stopping, began_s is not None)


async def test_a_request_whose_prompt_is_being_made_when_a_drain_begins_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preparing = ServedModel.preparing

    @contextlib.contextmanager
    def preparing_until_drain(self: ServedModel) -> Iterator[None]:
        with preparing(self):
            yield
            self.drain.start(0.0)

    monkeypatch.setattr(ServedModel, "preparing", preparing_until_drain)
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with http(make_app(FakeClient(says("x")))) as api:
        answers = [await api.post("/v1/chat/completions", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 503]
