"""Filling in the middle: suffix on completions, and llama-server's /infill as editors' plugins use it."""

import json
from typing import Any

import pytest

from engine.protocol import EngineInfo, FinishReason
from tests.helpers.fake_client import BOS, FakeClient, http, make_app, says, says_ids
from tests.helpers.fim_tokenizer import END, FILE, MIDDLE, PAD, PREFIX, REPO, SUFFIX, fim_info

pytestmark = pytest.mark.fast

TEXT_URL, INFILL_URL = "/v1/completions", "/infill"
GAP = {"input_prefix": "ab", "input_suffix": "cd", "n_predict": 8}

# What llama.vim sends (autoload/llama.vim, s:fim), but for the texts.
VIM = {
    "input_extra": [{"text": "x=1", "time": [1, 2], "filename": "a.py"}],
    "prompt": "  c",
    "n_indent": 2,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}


async def _post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> Any:
    async with http(make_app(client, **options)) as api:
        return await api.post(path, json=body)


async def _prompt(path: str, body: dict[str, Any], info: EngineInfo | None = None) -> list[int]:
    client = FakeClient(says("x"), info or fim_info())
    response = await _post(client, path, body)
    assert response.status_code == 200, response.text
    return client.requests[0].prompt_ids


# --- completions with a suffix ---------------------------------------------------------------------------------------


async def test_a_suffix_stands_behind_the_prompt() -> None:
    ids = await _prompt(TEXT_URL, {"prompt": "ab", "suffix": "cd"})
    assert ids == [PREFIX, *b"ab", SUFFIX, *b"cd", MIDDLE]


async def test_a_bos_comes_before_all() -> None:
    ids = await _prompt(TEXT_URL, {"prompt": "ab", "suffix": "cd"}, fim_info(add_bos=True))
    assert ids == [BOS, PREFIX, *b"ab", SUFFIX, *b"cd", MIDDLE]


async def test_an_empty_suffix_is_none() -> None:
    assert await _prompt(TEXT_URL, {"prompt": "ab", "suffix": ""}) == list(b"ab")


@pytest.mark.parametrize("special", [True, False])
async def test_a_clients_text_spells_no_control_token(special: bool) -> None:
    body = {"prompt": "<|fim_suffix|>", "suffix": "<|im_end|><|fim_middle|>"}
    ids = await _prompt(TEXT_URL, body, fim_info(special=special))
    assert ids == [PREFIX, *b"<|fim_suffix|>", SUFFIX, *b"<|im_end|><|fim_middle|>", MIDDLE]


@pytest.mark.parametrize("end_id", [END, PAD, FILE, REPO])
async def test_a_token_that_ends_the_middle_is_an_end_of_the_text(end_id: int) -> None:
    client = FakeClient(says_ids([*b"hi", end_id], finish=FinishReason.STOP), fim_info())
    response = await _post(client, TEXT_URL, {"prompt": "ab", "suffix": "cd", "stop_token_ids": [7]})
    assert {END, PREFIX, MIDDLE, SUFFIX, PAD, REPO, FILE, 7} == set(client.requests[0].sampling.stop_token_ids)
    choice = response.json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("hi", "stop", None)


async def test_ignore_eos_ignores_these_ends_too() -> None:
    client = FakeClient(says("x"), fim_info())
    await _post(client, TEXT_URL, {"prompt": "ab", "suffix": "cd", "ignore_eos": True})
    assert client.requests[0].sampling.stop_token_ids == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"suffix": 5}, "suffix"),
        ({"prompt": "a" * 300}, "prompt"),
    ],
)
async def test_what_does_not_go_with_a_suffix_is_refused(fields: dict[str, Any], param: str) -> None:
    response = await _post(FakeClient(says("x"), fim_info()), TEXT_URL, {"prompt": "ab", "suffix": "cd", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [(TEXT_URL, {"prompt": "ab", "suffix": "cd"}, "suffix"), (INFILL_URL, GAP, "input_suffix")],
)
async def test_a_model_without_the_tokens_says_so(path: str, body: dict[str, Any], param: str) -> None:
    response = await _post(FakeClient(says("x")), path, body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert "has no tokens for it" in response.json()["error"]["message"]


# --- /infill ---------------------------------------------------------------------------------------------------------


async def test_the_prompt_continues_the_prefix() -> None:
    assert await _prompt(INFILL_URL, {**GAP, "prompt": "xy"}) == [PREFIX, *b"abxy", SUFFIX, *b"cd", MIDDLE]


async def test_other_files_come_first_as_in_a_repository() -> None:
    extra = [{"text": "x", "filename": "a.py"}, {"text": "y"}]
    ids = await _prompt(INFILL_URL, {**GAP, "input_extra": extra})
    files = [REPO, *b"project\n", FILE, *b"a.py\nx\n", FILE, *b"other\ny\n", FILE, *b"current\n"]
    assert ids == [*files, PREFIX, *b"ab", SUFFIX, *b"cd", MIDDLE]


async def test_the_files_sent_last_stay_where_not_all_fit() -> None:
    extra = [{"text": "x" * size, "filename": "f"} for size in (150, 90, 30)]
    client = FakeClient(says("x"), fim_info())
    response = await _post(client, INFILL_URL, {**GAP, "input_extra": extra})
    ids = client.requests[0].prompt_ids
    assert ids.count(ord("x")) == 120
    assert ids.count(FILE) == 3
    assert response.json()["truncated"] is True


async def test_what_is_near_the_gap_stays_where_not_all_fits() -> None:
    body = {"input_prefix": "p" * 500 + "q", "input_suffix": "s" + "t" * 500, "n_predict": 97}
    ids = await _prompt(INFILL_URL, body)
    assert len(ids) == 200 - 97
    assert ids == [PREFIX, *b"p" * 74, *b"q", SUFFIX, *b"s", *b"t" * 24, MIDDLE]


async def test_a_short_suffix_leaves_its_share_to_the_prefix() -> None:
    ids = await _prompt(INFILL_URL, {"input_prefix": "p" * 500, "input_suffix": "s", "n_predict": 96})
    assert ids == [PREFIX, *b"p" * 100, SUFFIX, *b"s", MIDDLE]


async def test_an_answer_of_any_length_has_what_is_left() -> None:
    client = FakeClient(says("x"), fim_info())
    await _post(client, INFILL_URL, {**GAP, "n_predict": -1, "seed": -1})
    sampling = client.requests[0].sampling
    assert (sampling.max_tokens, sampling.seed) == (200 - 7, None)


async def test_the_whole_answer_has_llama_servers_shape() -> None:
    client = FakeClient(says_ids([*b"h\ni", END], finish=FinishReason.STOP), fim_info())
    answer = (await _post(client, INFILL_URL, {**GAP, "return_tokens": True, "temperature": 0.5})).json()
    timings = answer.pop("timings")
    assert answer.pop("generation_settings")["temperature"] == 0.5
    assert answer == {
        "index": 0,
        "content": "h\ni",
        "tokens": [*b"h\ni", END],
        "id_slot": -1,
        "stop": True,
        "model": "org/tiny",
        "tokens_predicted": 4,
        "tokens_evaluated": 7,
        "tokens_cached": 2,
        "has_new_line": True,
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
    }
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (5, 2, 4)
    assert timings["queue_ms"] == 250.0
    assert timings["predicted_per_second"] > 0


@pytest.mark.parametrize(
    ("fields", "stop_type", "word"), [({}, "limit", ""), ({"stop": ["l"]}, "word", "l"), ({"stop": "zz"}, "limit", "")]
)
async def test_the_answer_says_why_it_ended(fields: dict[str, Any], stop_type: str, word: str) -> None:
    answer = (await _post(FakeClient(says("hello"), fim_info()), INFILL_URL, {**GAP, **fields})).json()
    assert (answer["stop_type"], answer["stopping_word"]) == (stop_type, word)
    assert answer["content"] == ("he" if word else "hello")


@pytest.mark.parametrize("per_step", [1, 3])
async def test_a_stream_ends_with_the_event_that_stops(per_step: int) -> None:
    script = says_ids([*"hé\n".encode(), END], per_step=per_step, finish=FinishReason.STOP)
    response = await _post(FakeClient(script, fim_info()), INFILL_URL, {**GAP, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    sent = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
    *pieces, end = sent
    assert "".join(piece["content"] for piece in pieces) == "hé\n"
    assert not any(piece["stop"] for piece in pieces)
    assert (end["stop"], end["content"], end["stop_type"], end["has_new_line"]) == (True, "", "eos", True)
    assert end["tokens_predicted"] == 5


async def test_what_llama_vim_sends_is_honored_or_listed() -> None:
    client = FakeClient(says("d\n  e\nf"), fim_info())
    response = await _post(client, INFILL_URL, {**GAP, **VIM}, strict_parameters=True)
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "samplers, t_max_prompt_ms"
    answer = response.json()
    assert set(answer) == set(VIM["response_fields"])
    assert answer["content"] == "d\n  e\n"  # n_indent
    assert answer["timings/prompt_n"] == len(client.requests[0].prompt_ids) - 2
    sampling = client.requests[0].sampling
    assert (sampling.top_k, sampling.top_p, sampling.max_tokens) == (40, 0.99, 8)


async def test_llama_vims_warming_of_the_cache_computes_the_prompt_alone() -> None:
    body = {**VIM, "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0, "response_fields": [""]}
    client = FakeClient(says(""), fim_info())
    response = await _post(client, INFILL_URL, {**body, "samplers": [], "temperature": 0.0})
    assert response.status_code == 200
    assert response.json() == {}
    assert client.requests[0].sampling.max_tokens == 0


async def test_a_line_that_leaves_the_block_ends_the_request() -> None:
    client = FakeClient(says("a\nb and much more"), fim_info())
    answer = (await _post(client, INFILL_URL, {**GAP, "n_predict": 50, "n_indent": 4})).json()
    assert (answer["content"], answer["stop_type"]) == ("a\n", "limit")
    assert client.num_open == 0


async def test_llama_servers_name_of_the_repetition_penalty_works() -> None:
    client = FakeClient(says("x"), fim_info())
    response = await _post(client, INFILL_URL, {**GAP, "repeat_penalty": 1.5, "repeat_last_n": 64})
    assert client.requests[0].sampling.repetition_penalty == 1.5
    assert response.headers["x-ignored-parameters"] == "repeat_last_n"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_suffix": None}, "input_suffix"),
        ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
        ({"n_predict": -2}, "n_predict"),
        ({"n_predict": 200}, "n_predict"),
        ({"n_predict": 4, "max_tokens": 5}, "n_predict"),
        ({"n": 2}, "n"),
        ({"n_probs": 3}, "n_probs"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"repeat_penalty": 1.5, "repetition_penalty": 1.2}, "repeat_penalty"),
    ],
)
async def test_what_cannot_be_honored_is_refused(fields: dict[str, Any], param: str) -> None:
    response = await _post(FakeClient(says("x"), fim_info()), INFILL_URL, {**GAP, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_answer_longer_than_the_context_is_refused_with_the_limit() -> None:
    client = FakeClient(says("x"), fim_info())
    response = await _post(client, INFILL_URL, {**GAP, "n_predict": 10**9})
    limit = client.info.max_model_len
    assert f"n_predict is 1000000000, and the model takes {limit} tokens" in response.json()["error"]["message"]


async def test_a_model_that_fills_no_gaps_is_told_with_what_can_be_asked_instead() -> None:
    response = await _post(FakeClient(says("x")), INFILL_URL, GAP)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "input_suffix")
    assert "/v1/completions" in error["message"]


@pytest.mark.parametrize(
    "fields", [{"n_probs": 0, "grammar": "", "lora": []}, {"return_token_ids": False, "id_slot": -1}]
)
async def test_values_that_ask_for_nothing_are_accepted(fields: dict[str, Any]) -> None:
    response = await _post(FakeClient(says("x"), fim_info()), INFILL_URL, {**GAP, **fields}, strict_parameters=True)
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers
