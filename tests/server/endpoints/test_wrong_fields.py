"""A field's fault is answered with a 4xx and OpenAI's error object, which names the field and the limit."""

import re
from typing import Any

import pytest

from tests.helpers.fake_client import MAX_MODEL_LEN, MODEL, VOCAB_SIZE, FakeClient, http, make_app, says
from tests.helpers.refusals import check_refusal

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
MESSAGE = {"role": "user", "content": "hi"}


# Fields of both endpoints: (field, value, a part of the message, param if it is not the field).
FIELDS: list[tuple[str, Any, str]] = [
    ("n", True, "n is true; it must be an integer"),
    ("n", "5", "it must be an integer"),
    ("n", 1.5, "it must be an integer"),
    ("n", 129.0, "n is 129; it must be at most 128"),
    ("n", 0, "at least 1"),
    ("n", 129, "at most 128"),
    ("max_tokens", "5", "it must be an integer"),
    ("max_tokens", -1, "max_tokens is -1; it must be at least 1"),
    ("max_tokens", 0, "max_tokens is 0; it must be at least 1"),
    ("max_tokens", 2**31, "at most 2147483647"),
    ("min_tokens", 17, "at most 16"),
    ("temperature", "1", "it must be a number"),
    ("temperature", -0.1, "at least 0 and at most 100"),
    ("temperature", 100.5, "at least 0 and at most 100"),
    ("top_p", 0, "above 0"),
    ("top_p", 1.5, "at most 1"),
    ("top_k", -2, "at least -1"),
    ("top_k", 1.5, "it must be an integer"),
    ("min_p", 1.01, "at most 1"),
    ("typical_p", 0, "above 0"),
    ("typical_p", 1.1, "at most 1"),
    ("top_n_sigma", -2, "at least -1"),
    ("top_n_sigma", 101, "at most 100"),
    ("xtc_probability", 1.1, "at most 1"),
    ("xtc_threshold", -0.1, "at least 0"),
    ("dry_multiplier", -1, "at least 0"),
    ("dry_base", 0.5, "at least 1"),
    ("dry_allowed_length", -1, "at least 0"),
    ("dry_penalty_last_n", -2, "at least -1"),
    ("dry_penalty_last_n", 8193, "at most 8192"),
    ("dry_sequence_breakers", "\n", "it must be a list"),
    ("dry_sequence_breakers", ["x"] * 17, "at most 16"),
    ("mirostat", 3, "at most 2"),
    ("mirostat_tau", 0, "above 0"),
    ("mirostat_eta", 1.5, "at most 1"),
    ("bad_words", "word", "it must be a list"),
    ("bad_words", ["x"] * 1025, "at most 1024"),
    ("allowed_token_ids", [], "allows no token"),
    ("allowed_token_ids", [VOCAB_SIZE], f"at most {VOCAB_SIZE - 1}"),
    ("presence_penalty", 2.1, "at most 2"),
    ("frequency_penalty", -2.1, "at least -2"),
    ("repetition_penalty", 0, "above 0"),
    ("seed", 2**63, "at most"),
    ("seed", 1.5, "it must be an integer"),
    ("stop", 5, "a string or a list of strings"),
    ("stop", ["a", 5], "its item 1 is 5, which is not a string"),
    ("stop", "", "its item 0 has 0 characters; each must have 1 to 1024"),
    ("stop", ["a", "b" * 1025], "its item 1 has 1025 characters; each must have 1 to 1024"),
    ("stop", ["x"] * 65, "at most 64"),
    ("stop_token_ids", [VOCAB_SIZE], f"at most {VOCAB_SIZE - 1}"),
    ("stop_token_ids", [-1], "at least 0"),
    ("logit_bias", {"a": 1}, "keys are token ids"),
    ("logit_bias", {"-1": 1}, "keys are token ids"),
    (
        "logit_bias",
        {str(VOCAB_SIZE): 1},
        f"has the key '{VOCAB_SIZE}'; keys are token ids of this model, at least 0 and ",
    ),
    ("logit_bias", {str(VOCAB_SIZE): 1}, f"at most {VOCAB_SIZE - 1}; POST /tokenize returns the ids of a text"),
    ("logit_bias", [1], "it must be an object"),
    ("stream", 1, "it must be true or false"),
    ("stream_options", {"include_usage": True}, "needs stream: true"),
    ("ignore_eos", "yes", "it must be true or false"),
    ("model", 5, "it must be a string"),
    ("priority", 2**31, "at most"),
    ("suffix", "end", "suffix "),
]


CHAT_FIELDS: list[tuple[str, Any, str]] = [
    ("dry_sequence_breakers[1]", ["x", ""], "at least 1 character"),
    ("dry_sequence_breakers[0]", ["x" * 41], "at most 40 characters"),
    ("bad_words[1]", ["x", ""], "at least 1 character"),
    ("bad_words[0]", ["x" * 257], "at most 256 characters"),
    ("bad_words[0]", [5], "it must be a string"),
    ("allowed_token_ids[1]", [1, "a"], "it must be an integer"),
    ("messages", None, "messages is null"),
    ("messages", [], "at least 1"),
    ("messages", "hi", "it must be a list"),
    ("messages[0]", ["hi"], "it must be an object"),
    ("messages[0].role", [{"role": "robot", "content": ""}], "'robot'"),
    ("messages[0].content", [{"role": "user", "content": 5}], "a string, a list of parts, or null"),
    ("messages[0].content[0].type", [{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'"),
    ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text"}]}], "is missing"),
    ("prediction.content", {"type": "content", "content": 7}, "a string, a list of parts, or null"),
    ("prediction.type", {"type": "file", "content": "x"}, "'content'"),
    ("top_logprobs", 21, "at most 20"),
    ("top_logprobs", 2, "needs logprobs: true"),
    ("logprobs", 2, "it must be true or false"),
    ("max_completion_tokens", 0, "at least 1"),
    ("tools", 5, "it must be a list"),
    ("response_format.type", {"type": "yaml"}, "it must be"),
    ("tools[0].type", [{"type": "web_search"}], "only tools of type function"),
    ("tools[0].function.name", [{"type": "function", "function": {"name": "a b"}}], "letters, digits"),
    ("tool_choice", "required", "there are no tools; give tools"),
    ("tool_choice", "always", "it must be none, auto, required"),
    ("reasoning_effort", "low-ish", "it must be"),
    ("thinking_token_budget", 5, "nothing in this model's chat template shows that it thinks"),
    ("function_call", 3, "it must be none, auto"),
    ("modalities", ["text", "audio"], "not supported"),
]


TEXT_FIELDS: list[tuple[str, Any, str]] = [
    ("prompt", None, "it must be a string"),
    ("prompt", [], "none empty"),
    ("prompt", [[]], "none empty"),
    ("prompt", ["a", 5], "a list of token ids"),
    ("prompt", ["a", 5], "its items are mixed: item 0 is a string, and item 1 is 5"),
    ("prompt", [[1, 2], "a"], "its items are mixed: item 0 is a list of token ids, and item 1 is 'a'"),
    ("prompt", [[1], [2], []], "its items are mixed: item 0 is a list of token ids, and item 2 is a list of 0 items"),
    ("prompt", [1, True], "its items are mixed: item 0 is a token id, and item 1 is true"),
    ("prompt", [1, 2.0], "a list of token ids"),
    ("prompt", [{}, 1], "a list of token ids"),
    ("prompt", [-1], "the token id -1"),
    ("prompt", [[1], [VOCAB_SIZE]], f"the token id {VOCAB_SIZE}"),
    ("logprobs", 21, "at most 20"),
    ("logprobs", -1, "at least 0"),
    ("logprobs", True, "it must be an integer"),
    ("best_of", 0, "at least 1"),
    ("prediction", {"type": "content", "content": "x"}, "not supported"),
]


@pytest.mark.parametrize(("field", "value", "part"), FIELDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_value_names_field_and_limit(field: str, value: Any, part: str, stream: bool) -> None:
    client = FakeClient(says("x"))
    body = {"max_tokens": 16, **({"stream": True} if stream and not field.startswith("stream") else {}), field: value}
    async with http(make_app(client)) as api:
        check_refusal(await api.post(CHAT_URL, json={"messages": [MESSAGE], **body}), 400, field, part)
        check_refusal(await api.post(TEXT_URL, json={"prompt": "hi", **body}), 400, field, part)
    assert client.requests == []


@pytest.mark.parametrize(("field", "value", "part"), CHAT_FIELDS)
async def test_a_wrong_chat_field_names_field_and_limit(field: str, value: Any, part: str) -> None:
    name = re.split(r"[.\[]", field)[0]
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(CHAT_URL, json={"messages": [MESSAGE], name: value})
    check_refusal(response, 400, field, part)


@pytest.mark.parametrize(("field", "value", "part"), TEXT_FIELDS)
async def test_a_wrong_completion_field_names_field_and_limit(field: str, value: Any, part: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "hi", field: value})
    check_refusal(response, 400, field, part)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT_URL, {"messages": [MESSAGE]}, "max_tokens"),
        (CHAT_URL, {"messages": [MESSAGE]}, "max_completion_tokens"),
        (TEXT_URL, {"prompt": "hi"}, "max_tokens"),
        ("/v1/responses", {"input": "hi"}, "max_output_tokens"),
        ("/api/chat", {"messages": [MESSAGE], "model": MODEL}, "options.num_predict"),
    ],
)
async def test_all_limits_of_the_answer_that_are_too_small_are_told_the_same(
    path: str, body: dict[str, Any], field: str
) -> None:
    outer, _, inner = field.partition(".")
    messages = []
    async with http(make_app(FakeClient(says("x")))) as api:
        for value in (-3, 0):
            response = await api.post(path, json={**body, outer: {inner: value} if inner else value})
            assert response.status_code == 400
            messages.append(response.text.replace(f"{field} is {value};", "VALUE"))
    assert "VALUE it must be" in messages[0]
    assert messages[0] == messages[1]


async def test_a_prompt_and_output_beyond_the_context_are_refused_with_the_numbers() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        both = await api.post(TEXT_URL, json={"prompt": "x" * 99, "max_tokens": 101})
        prompt = await api.post(TEXT_URL, json={"prompt": "x" * MAX_MODEL_LEN})
        prompt_alone = await api.post(TEXT_URL, json={"prompt": "x" * MAX_MODEL_LEN, "max_tokens": 1})
        chat = await api.post(CHAT_URL, json={"messages": [{"role": "user", "content": "x" * MAX_MODEL_LEN}]})
        fits = await api.post(TEXT_URL, json={"prompt": "x" * 99, "max_tokens": 100})
    check_refusal(
        both,
        400,
        "max_tokens",
        "100 tokens and max_tokens is 101, more than the 100 that are left: the model takes 200 tokens of prompt and",
    )
    for response in (prompt, prompt_alone):
        check_refusal(response, 400, "prompt", "the prompt has 201 tokens; the model takes 200")
    check_refusal(chat, 400, "messages", "the prompt has 219 tokens")
    refused = (both, prompt, prompt_alone, chat)
    assert {response.json()["error"]["code"] for response in refused} == {"context_length_exceeded"}
    assert fits.status_code == 200


@pytest.mark.parametrize(
    ("url", "fields", "status", "param"),
    [
        (TEXT_URL, {"logprobs": 10**400}, 400, "logprobs"),
        (TEXT_URL, {"best_of": 10**400}, 400, "best_of"),
        (TEXT_URL, {"prompt": [10**400]}, 400, "prompt"),
        (TEXT_URL, {"model": "x" * 10_000}, 404, "model"),
        (CHAT_URL, {"max_completion_tokens": 10**400}, 400, "max_completion_tokens"),
    ],
)
async def test_a_long_value_is_shown_shortened(url: str, fields: dict[str, Any], status: int, param: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        body = {"messages": [MESSAGE]} if url == CHAT_URL else {"prompt": "a"}
        response = await api.post(url, json={**body, **fields})
    check_refusal(response, status, param, "...")
    assert len(response.json()["error"]["message"]) < 300


async def test_an_empty_prompt_is_refused() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "", "add_special_tokens": False})
    check_refusal(response, 400, "prompt", "at least one token")


async def test_two_limits_of_tokens_that_differ_are_refused() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        body = {"messages": [MESSAGE], "max_tokens": 3, "max_completion_tokens": 4}
        check_refusal(await api.post(CHAT_URL, json=body), 400, "max_tokens", "give one of them")


async def test_tokenizing_nothing_says_what_may_be_given() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        check_refusal(
            await api.post("/tokenize", json={}), 400, "prompt", "give a text in prompt, or a conversation in messages"
        )


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("/api/chat", {"model": "org/tiny", "messages": [{"role": "user", "content": "a", "images": ["aGk="]}]}),
    ],
)
async def test_images_are_refused_alike_in_every_protocol(url: str, body: dict[str, Any]) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(url, json=body)
    assert response.status_code == 400
    assert "this server takes only text; leave it out" in response.text
