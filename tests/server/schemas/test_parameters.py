"""Every field is passed to the engine, listed in the header of ignored fields, or refused."""

from typing import Any

import pytest

from engine.protocol import SamplingParams
from tests.helpers.fake_client import MAX_MODEL_LEN, FakeClient, engine_info, http, make_app, says

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
CHAT_TOKENS = 21
_TYPE_OF_PART = "messages[0].content[0].type"


async def _chat(client: FakeClient, options: dict[str, Any] | None = None, **body: Any) -> Any:
    async with http(make_app(client, **(options or {}))) as api:
        return await api.post("/v1/chat/completions", json={**CHAT, **body})


async def _sampling(body: dict[str, Any], **info: Any) -> SamplingParams:
    client = FakeClient(says("x"), engine_info(**info))
    assert (await _chat(client, **body)).status_code == 200
    return client.requests[0].sampling


async def test_every_sampling_field_reaches_the_engine() -> None:
    fields = {
        "min_tokens": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repetition_penalty": 1.1,
        "seed": 7,
        "ignore_eos": True,
        "prompt_logprobs": 2,
    }
    sampling = await _sampling({**fields, "max_tokens": 9, "logit_bias": {"5": -100, "6": 1.5}, "stop_token_ids": [3]})
    assert {name: getattr(sampling, name) for name in fields} == fields
    assert sampling.max_tokens == 9
    assert sampling.logit_bias == {5: -100.0, 6: 1.5}
    assert sampling.stop_token_ids == (3,)


async def test_null_means_absent() -> None:
    names = [*SamplingParams.__struct_fields__, "stop", "n", "stream", "stream_options", "tools", "user", "model"]
    assert await _sampling(dict.fromkeys(names)) == await _sampling({})


async def test_without_defaults_of_the_checkpoint_sampling_is_plain() -> None:
    assert await _sampling({}) == SamplingParams(max_tokens=MAX_MODEL_LEN - CHAT_TOKENS)


async def test_defaults_of_the_checkpoint_yield_to_the_request() -> None:
    defaults = {"temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.2}
    sampling = await _sampling({"temperature": 0, "top_k": -1}, generation_defaults=defaults)
    assert (sampling.temperature, sampling.top_k) == (0, 0)
    assert (sampling.top_p, sampling.min_p, sampling.repetition_penalty) == (0.95, 0.1, 1.2)
    assert (await _sampling({}, generation_defaults=defaults)).top_k == 20


@pytest.mark.parametrize(("given", "expected"), [({}, 1.0), ({"repetition_penalty": 1.3}, 1.3)])
async def test_a_checkpoints_repetition_penalty_is_not_for_constrained_answers(
    given: dict[str, Any], expected: float
) -> None:
    defaults = {"temperature": 0.6, "repetition_penalty": 1.2}
    body = {"response_format": {"type": "json_object"}, **given}
    sampling = await _sampling(body, generation_defaults=defaults)
    assert (sampling.temperature, sampling.repetition_penalty) == (0.6, expected)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_output_limit_work(name: str) -> None:
    assert (await _sampling({name: 5})).max_tokens == 5


@pytest.mark.parametrize(("prompt_tokens", "max_tokens"), [(10, 16), (190, 10)])
async def test_a_completion_gets_16_tokens_or_what_fits(prompt_tokens: int, max_tokens: int) -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        await api.post("/v1/completions", json={"prompt": [1] * prompt_tokens})
    assert client.requests[0].sampling.max_tokens == max_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": None, "tool_choice": "none"},
        {"tool_choice": "auto", "parallel_tool_calls": False},
        {"functions": [], "function_call": "auto"},
        {"response_format": {"type": "text"}},
        {"store": False, "service_tier": "auto"},
        {"modalities": ["text"], "metadata": {}},
        {"prediction": None, "audio": None, "reasoning_effort": None},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"use_beam_search": False, "length_penalty": 1.0},
        {"best_of": 1, "echo": False, "repetition_detection": None},
        {"return_token_ids": False, "return_tokens_as_token_ids": False},
        {"stream": True, "stream_options": {"continuous_usage_stats": False}},
        {"user": None, "metadata": None},
    ],
)
async def test_values_that_ask_for_nothing_are_accepted(fields: dict[str, Any]) -> None:
    response = await _chat(FakeClient(says("x")), {"strict_parameters": True}, **fields)
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_fields_that_cannot_change_the_text_are_listed(stream: bool) -> None:
    fields = {"user": "u", "metadata": {"a": "b"}, "store": True, "verbosity": "low"}
    response = await _chat(FakeClient(says("x")), {"strict_parameters": True}, stream=stream, **fields)
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "user, metadata, store, verbosity"


async def test_unknown_fields_are_listed_in_a_safe_spelling() -> None:
    fields = {"frobnicate": 1, "x\r\nset-cookie: a": 2, "ü" * 100: 3}
    response = await _chat(FakeClient(says("x")), **fields)
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "frobnicate, x??set-cookie??a, " + "?" * 64


async def test_the_list_is_bounded() -> None:
    response = await _chat(FakeClient(says("x")), **{f"unknown_{i}": i for i in range(1000)})
    assert response.headers["x-ignored-parameters"].endswith("unknown_31, ...")


def _tool(of_tool: dict[str, Any], of_function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "add", **of_function}, **of_tool}


_SCHEMA = {"name": "a", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"stream": True, "stream_options": {"frobnicate": True}}, "stream_options.frobnicate"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "zzz": 1}]}]},
            "messages[0].content[0].zzz",
        ),
        ({"response_format": {"type": "json_object", "zzz": 1}}, "response_format.zzz"),
        ({"response_format": {"type": "text", "zzz": 1}}, "response_format.zzz"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {**_SCHEMA, "zzz": 1}}},
            "response_format.json_schema.zzz",
        ),
        ({"structured_outputs": {"regex": "a", "zzz": 1}}, "structured_outputs.zzz"),
        ({"tools": [_tool({}, {}), _tool({"zzz": 1}, {"name": "b"})]}, "tools[1].zzz"),
        ({"tools": [_tool({}, {"paramters": {}})]}, "tools[0].function.paramters"),
        ({"functions": [{"name": "add", "zzz": 1}]}, "functions[0].zzz"),
    ],
)
async def test_strict_parameters_refuses_unknown_fields(fields: dict[str, Any], param: str) -> None:
    response = await _chat(FakeClient(says("x")), {"strict_parameters": True}, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", param)


async def test_strict_parameters_name_all_unknown_fields_and_what_helps() -> None:
    response = await _chat(FakeClient(says("x")), {"strict_parameters": True}, aaa=1, bbb=2)
    assert response.json()["error"]["message"] == (
        "'aaa', 'bbb' are not parameters of this endpoint, and the server was started with --strict-parameters; leave "
        "them out, or start the server without that option"
    )


async def test_llama_servers_name_of_the_repetition_penalty_is_honored() -> None:
    assert (await _sampling({"repeat_penalty": 1.3})).repetition_penalty == 1.3
    assert (await _sampling({"repeat_penalty": 1.3, "repetition_penalty": 1.3})).repetition_penalty == 1.3
    response = await _chat(FakeClient(says("x")), repeat_penalty=1.3, repetition_penalty=1.2)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "repeat_penalty")
    response = await _chat(FakeClient(says("x")), samplers=["top_k"], repeat_last_n=64)
    assert response.headers["x-ignored-parameters"] == "samplers, repeat_last_n"


async def test_a_completions_strict_parameters_are_those_within_its_format_too() -> None:
    async with http(make_app(FakeClient(says("x")), strict_parameters=True)) as api:
        body = {"prompt": "hi", "response_format": {"type": "json_object", "zzz": 1}}
        response = await api.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format.zzz")


async def test_strict_parameters_take_every_field_of_a_format_and_a_tool() -> None:
    tool = _tool({}, {"description": "adds", "parameters": {"type": "object", "title": "x"}, "strict": True})
    schema = {"type": "json_schema", "json_schema": {**_SCHEMA, "description": "d", "strict": True}}
    client = FakeClient(says("x"), engine_info(max_model_len=2_000))
    response = await _chat(client, {"strict_parameters": True}, tools=[tool], response_format=schema)
    assert response.status_code == 200, response.text
    assert "x-ignored-parameters" not in response.headers


async def test_unknown_fields_of_tools_are_listed() -> None:
    client = FakeClient(says("x"), engine_info(max_model_len=2_000))
    response = await _chat(client, tools=[_tool({"zzz": 1}, {"shown": 1})])
    assert response.headers["x-ignored-parameters"] == "tools[0].zzz"


async def test_an_unsupported_field_has_its_own_code() -> None:
    response = await _chat(FakeClient(says("x")), audio={"voice": "alloy"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "audio")


CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT_URL, {"max_completion_tokens": 5}, "max_completion_tokens"),
        (TEXT_URL, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT_URL, {"echo": True}, "echo"),
        (CHAT_URL, {"best_of": 2}, "best_of"),
    ],
)
async def test_a_field_that_would_change_the_answer_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(path, json={**(CHAT if path == CHAT_URL else {"prompt": "hi"}), **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", param)


@pytest.mark.parametrize(("chats", "texts"), [("max_completion_tokens", "max_tokens"), ("top_logprobs", "logprobs")])
async def test_a_completion_says_what_it_calls_a_chat_field(chats: str, texts: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "hi", chats: 5})
    assert f"{chats} is not supported by this endpoint; text completions call it {texts}" in response.text


@pytest.mark.parametrize("fields", [{"top_logprobs": 0}, {"max_completion_tokens": None}])
async def test_a_completion_takes_neutral_values_of_chat_fields(fields: dict[str, Any]) -> None:
    async with http(make_app(FakeClient(says("x")), strict_parameters=True)) as api:
        response = await api.post(TEXT_URL, json={"prompt": "hi", **fields})
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers


@pytest.mark.parametrize("path", [CHAT_URL, "/tokenize"])
async def test_unknown_fields_of_content_parts_are_listed(path: str) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "zzz": 1}]
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(path, json={"messages": [{"role": "user", "content": parts}], "frobnicate": 1})
    assert response.headers["x-ignored-parameters"] == "frobnicate, messages[0].content[1].zzz"


async def test_unknown_fields_of_messages_go_to_the_template() -> None:
    response = await _chat(FakeClient(says("x")), messages=[{"role": "user", "content": "hi", "zzz": 1}])
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers


async def test_a_breakpoint_of_a_part_is_listed_and_known() -> None:
    part = {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    async with http(make_app(FakeClient(says("x")), strict_parameters=True)) as api:
        response = await api.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "messages[0].content[0].prompt_cache_breakpoint"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": None}]}, "messages[0].content"),
        ({"messages": [*CHAT["messages"], {"role": "tool", "tool_call_id": "a"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}, _TYPE_OF_PART),
        ({"messages": [{"role": "user", "content": [{"type": ["text"], "text": "a"}]}]}, _TYPE_OF_PART),
        ({"response_format": []}, "response_format"),
        ({"response_format": [{"type": "text"}]}, "response_format"),
        ({"stop_token_ids": [3, 264]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids"),
        ({"temperature": 100.5}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        *(
            ({"chat_template_kwargs": {name: []}}, f"chat_template_kwargs.{name}")
            for name in ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template")
        ),
    ],
)
async def test_what_cannot_be_honored_is_refused_with_its_path(fields: dict[str, Any], param: str) -> None:
    response = await _chat(FakeClient(says("x")), **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_temperature_above_2_is_taken() -> None:
    assert (await _sampling({"temperature": 2.5})).temperature == 2.5


async def test_an_assistant_may_have_no_content() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*CHAT["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert (await _chat(FakeClient(says("x")), messages=messages)).status_code == 200


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "image", "video_url", "input_image", "audio"])
async def test_parts_that_are_not_text_are_unsupported(kind: str) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": kind, kind: {}}]
    response = await _chat(FakeClient(says("x")), messages=[{"role": "user", "content": parts}])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "messages[0].content[1].type")
    assert f"is '{kind}'" in error["message"]


@pytest.mark.parametrize(("role", "status"), [("assistant", 200), ("user", 400)])
async def test_a_refusal_is_text_of_the_assistant(role: str, status: int) -> None:
    client = FakeClient(says("x"))
    refusal, text = [{"type": "refusal", "refusal": "No."}], [{"type": "text", "text": "No."}]
    response = await _chat(client, messages=[{"role": role, "content": refusal}])
    assert response.status_code == status
    if status == 200:
        await _chat(client, messages=[{"role": role, "content": text}])
        assert client.requests[0].prompt_ids == client.requests[1].prompt_ids


@pytest.mark.parametrize(("name", "value"), [("user", 5), ("user", {}), ("metadata", "a"), ("metadata", [1])])
async def test_a_wrong_type_of_a_field_that_is_not_used_is_refused(name: str, value: Any) -> None:
    response = await _chat(FakeClient(says("x")), **{name: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize(("honored", "listed"), [(True, None), (False, "priority")])
async def test_priority_is_listed_where_the_scheduler_does_not_look_at_it(honored: bool, listed: str | None) -> None:
    client = FakeClient(says("x"))
    response = await _chat(client, {"priority": honored}, priority=-3)
    assert response.headers.get("x-ignored-parameters") == listed
    assert client.requests[0].priority == -3


async def test_a_cache_salt_reaches_the_engine() -> None:
    client = FakeClient(says("x"))
    await _chat(client, cache_salt="tenant")
    assert client.requests[0].cache_salt == "tenant"


async def test_of_two_fields_of_one_name_the_last_counts() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        content = b'{"prompt": "a", "max_tokens": 5, "max_tokens": 6}'
        await api.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert client.requests[0].sampling.max_tokens == 6


@pytest.mark.parametrize("best_of", [1, 2])
async def test_best_of_n_choices_is_all_of_them(best_of: int) -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        response = await api.post("/v1/completions", json={"prompt": "a", "n": best_of, "best_of": best_of})
    assert response.status_code == 200
    assert len(client.requests) == best_of
