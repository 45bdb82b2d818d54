"""Ollama's endpoints: answers, streams, what becomes of each field, and errors in its form."""

import json
from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from engine.client.interface import EngineState
from engine.errors import EngineDied
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from tests.helpers.chat_templates import OPENED_THOUGHT
from tests.helpers.fake_client import (
    MAX_MODEL_LEN,
    MODEL,
    FakeClient,
    Step,
    byte_tokenizer,
    engine_info,
    http,
    make_app,
    prompt_text,
    says,
)

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "hi"}]
HELLO = says("Grüße 🙂", finish=FinishReason.STOP)
ADD = {"type": "function", "function": {"name": "plus", "parameters": {"type": "object", "properties": {}}}}
TOOL_TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t.function.name }} {% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_call_id %}[{{ m.tool_call_id }}]{% endif %}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKING_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}" + OPENED_THOUGHT
DURATIONS = ("total_duration", "prompt_eval_duration", "eval_duration")


async def _post(client: FakeClient, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(path, json={"model": MODEL, **body})


async def _chat(client: FakeClient, *, chat_template: str | None = None, **fields: Any) -> httpx.Response:
    body = {"messages": MESSAGES, "stream": False, **fields}
    return await _post(client, "/api/chat", body, chat_template=chat_template)


def _lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.content.splitlines()]


async def test_a_chat_is_streamed_unless_stream_is_false() -> None:
    response = await _post(FakeClient(HELLO), "/api/chat", {"messages": MESSAGES})
    *parts, last = _lines(response)
    assert "".join(part["message"]["content"] for part in parts) == "Grüße 🙂"
    assert not any(part["done"] for part in parts)
    assert last["done"] is True
    assert last["done_reason"] == "stop"
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {line["model"] for line in (*parts, last)} == {MODEL}
    assert (last["prompt_eval_count"] > 0, last["eval_count"]) == (True, len("Grüße 🙂".encode()) + 1)
    assert all(last[name] > 0 for name in DURATIONS)
    assert last["load_duration"] == 0
    assert last["total_duration"] >= last["eval_duration"]


async def test_a_whole_chat_has_everything_at_once() -> None:
    answer = (await _chat(FakeClient(HELLO))).json()
    assert answer["message"] == {"role": "assistant", "content": "Grüße 🙂"}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert answer["eval_count"] == len("Grüße 🙂".encode()) + 1


async def test_time_in_the_queue_is_no_evaluation_of_the_prompt() -> None:
    def script(request: EngineRequest) -> list[Step]:
        finish = FinishReason.LENGTH
        return [RequestOutput(id=request.id, new_ids=[72], finish_reason=finish, queue_s=3600.0)]

    answer = (await _chat(FakeClient(script))).json()
    assert answer["prompt_eval_duration"] == 1  # all of its time was in the queue


async def test_a_generation_is_a_chat_of_one_message() -> None:
    client = FakeClient(HELLO)
    response = await _post(client, "/api/generate", {"prompt": "why", "system": "be brief"})
    *parts, last = _lines(response)
    assert "".join(part["response"] for part in parts) == "Grüße 🙂"
    assert (last["response"], last["done_reason"]) == ("", "stop")
    assert prompt_text(client) == "system\nbe brief\nuser\nwhy\nassistant\n"


async def test_a_raw_prompt_is_continued_without_a_template_until_the_context_is_full() -> None:
    client = FakeClient(says("x"))
    response = await _post(client, "/api/generate", {"prompt": "why", "raw": True, "stream": False})
    assert response.json()["response"] == "x"
    assert prompt_text(client) == "why"
    assert client.requests[0].sampling.max_tokens == MAX_MODEL_LEN - len(client.requests[0].prompt_ids)


async def test_a_model_without_a_template_continues_the_prompt() -> None:
    info = engine_info()
    bare = engine_info(tokenizer=msgspec.structs.replace(info.tokenizer, chat_template=None))
    client = FakeClient(says("x"), bare)
    assert (await _post(client, "/api/generate", {"prompt": "why", "stream": False})).status_code == 200
    assert prompt_text(client) == "why"
    refused = await _post(client, "/api/generate", {"prompt": "why", "system": "be brief"})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("system needs the model's chat template")


async def test_options_are_the_samplers() -> None:
    client = FakeClient(says("x"))
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "seed": 11,
        "num_predict": 5,
        "stop": ["zz"],
    }
    response = await _chat(client, options=options)
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers
    sampling = client.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 7, 0.9, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.2, 0.3, 0.4)
    assert (sampling.seed, sampling.max_tokens, sampling.typical_p) == (11, 5, 0.8)


async def test_mirostat_is_the_samplers() -> None:
    client = FakeClient(says("x"))
    await _chat(client, options={"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2})
    mirostat = client.requests[0].sampling.mirostat
    assert mirostat is not None
    assert (mirostat.tau, mirostat.eta) == (4.0, 0.2)


@pytest.mark.parametrize("num_predict", [-1, -2, None, 10_000])
async def test_without_a_limit_the_context_is_it(num_predict: int | None) -> None:
    client = FakeClient(says("x"))
    await _chat(client, options={"num_predict": num_predict, "seed": -1})
    request = client.requests[0]
    assert request.sampling.max_tokens == MAX_MODEL_LEN - len(request.prompt_ids)
    assert request.sampling.seed is None


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"options": {"num_ctx": 64, "num_gpu": 1}}, "options.num_ctx, options.num_gpu"),
        ({"options": {"num_ctx": MAX_MODEL_LEN}}, ""),
        ({"options": {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "tfs_z": 1, "repeat_last_n": -1}}, ""),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"novelty": 3}, "keep_alive": "5m"}, "keep_alive, options.novelty"),
        ({"truncate": True, "shift": True}, "truncate, shift"),
        ({"truncate": False, "shift": False}, ""),
        ({"n": 2, "logit_bias": {"1": 3}}, "n, logit_bias"),  # other protocols' fields have no meaning here
        ({"format": {"type": "object", "title": "a"}}, ""),
        ({"format": {"type": "string", "format": "unheard-of"}}, "format.format"),
    ],
)
async def test_what_is_not_honored_is_listed_by_the_clients_name(fields: dict[str, Any], ignored: str) -> None:
    client = FakeClient(says("x"))
    response = await _chat(client, **fields)
    assert response.status_code == 200, response.text
    listed = response.headers.get("x-ignored-parameters", "")
    assert {*listed.split(", ")} == {*ignored.split(", ")}
    assert len(client.requests) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": {"temperature": -1}}, "options.temperature is -1"),
        ({"options": {"num_predict": 0}}, "options.num_predict is 0; it must be an integer of at least 1, or -1"),
        ({"options": {"num_predict": -3}}, "options.num_predict is -3"),
        ({"options": {"num_predict": True}}, "options.num_predict is true"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z is not supported"),
        ({"options": {"mirostat": 3}}, "options.mirostat is 3"),
        ({"options": {"stop": 3}}, "options.stop is 3"),
        ({"options": []}, "options is a list"),
        ({"template": "{{ .Prompt }}"}, "template is not supported"),
        ({"context": [1, 2]}, "context is not supported"),
        ({"think": True}, "think is given, and the model"),
        ({"think": "maximal"}, "think is 'maximal'; it must be true, false, low"),
        ({"format": "yaml"}, "format is 'yaml'; it must be \"json\" or a JSON schema"),
        ({"format": {"type": "nothing"}}, "format"),
        ({"keep_alive": []}, "keep_alive is a list of 0 items"),
        ({"messages": [{"role": "user", "content": "what is it", "images": ["aGk="]}]}, "messages[0].images"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role is 'judge'"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content is 3"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name is missing"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21"),
    ],
)
async def test_a_faulty_field_is_refused_in_the_clients_words(fields: dict[str, Any], message: str) -> None:
    client = FakeClient(says("x"))
    response = await _chat(client, **fields)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert client.requests == []


async def test_options_that_are_no_parameter_are_refused_where_that_was_asked_for() -> None:
    client = FakeClient(says("x"))
    body = {"messages": MESSAGES, "options": {"novelty": 1}}
    refused = await _post(client, "/api/chat", body, strict_parameters=True)
    known = await _post(client, "/api/chat", {"messages": MESSAGES, "keep_alive": -1}, strict_parameters=True)
    assert (refused.status_code, known.status_code) == (400, 200)
    assert known.headers["x-ignored-parameters"] == "keep_alive"


async def test_the_prompt_is_blamed_by_its_name() -> None:
    response = await _post(FakeClient(says("x")), "/api/generate", {"prompt": "x" * 1000})
    assert response.status_code == 400
    assert "shorten the prompt" in response.json()["error"]


@pytest.mark.parametrize(
    ("served", "asked", "status"),
    [
        ("tiny", "tiny", 200),
        ("tiny", "tiny:latest", 200),
        ("tiny:latest", "tiny", 200),
        ("org/tiny", "org/tiny:latest", 200),
        ("host:80/tiny", "host:80/tiny:latest", 200),
        ("tiny", "tiny:8b", 404),
        ("tiny:8b", "tiny", 404),
        ("tiny", "other", 404),
    ],
)
async def test_a_tag_that_is_latest_may_be_left_out(served: str, asked: str, status: int) -> None:
    response = await _post(
        FakeClient(says("x")), "/api/chat", {"model": asked, "messages": MESSAGES}, served_model_name=(served,)
    )
    assert response.status_code == status
    if status == 404:
        assert response.json()["error"].startswith(f"the model '{asked}' is not served here")
    else:
        assert _lines(response)[0]["model"] == asked


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_request_without_a_prompt_is_answered_at_once(path: str) -> None:
    client = FakeClient(says("x"))
    response = await _post(client, path, {"keep_alive": 0})
    answer = response.json()
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "load", MODEL)
    assert (answer.get("response") or answer.get("message", {}).get("content") or "") == ""
    assert response.headers["x-ignored-parameters"] == "keep_alive"  # it stays loaded
    assert client.requests == []


async def test_while_the_model_loads_requests_are_refused_and_lists_say_what_is_known() -> None:
    client = FakeClient(says("x"))
    client.state, client.reason = EngineState.LOADING, "loading"
    async with http(make_app(client)) as api:
        refused = await api.post("/api/chat", json={"model": MODEL})
        tags, running = (await api.get("/api/tags")).json(), (await api.get("/api/ps")).json()
    assert (refused.status_code, refused.json()) == (503, {"error": "loading"})
    assert running == {"models": []}
    assert [model["name"] for model in tags["models"]] == [f"{MODEL}:latest"]
    assert "size" not in tags["models"][0]


async def test_calls_are_objects_and_come_whole() -> None:
    text = (
        'Let me see.\n<tool_call>\n{"name": "plus", "arguments": {"b": 12345678901234567890, "a": 1.0}}\n</tool_call>\n'
        '<tool_call>\n{"name": "plus", "arguments": {}}\n</tool_call>'
    )
    whole = (await _chat(FakeClient(says(text)), chat_template=TOOL_TEMPLATE, tools=[ADD])).json()["message"]
    streamed = _lines(await _chat(FakeClient(says(text)), chat_template=TOOL_TEMPLATE, tools=[ADD], stream=True))
    assert whole["content"] == "Let me see."
    functions = [call["function"] for call in whole["tool_calls"]]
    assert functions == [
        {"index": 0, "name": "plus", "arguments": {"b": 12345678901234567890, "a": 1.0}},
        {"index": 1, "name": "plus", "arguments": {}},
    ]
    assert list(functions[0]["arguments"]) == ["b", "a"]
    calls = [call for part in streamed for call in part["message"].get("tool_calls", [])]
    assert [call["function"] for call in calls] == functions


@pytest.mark.parametrize("arguments", ['{"a": 1', '{"a": \n}}\n</tool_call>', "[1]}\n</tool_call>"])
async def test_a_call_whose_arguments_are_no_object_is_no_call(arguments: str) -> None:
    text = f'<tool_call>\n{{"name": "plus", "arguments": {arguments}'
    answer = (await _chat(FakeClient(says(text)), chat_template=TOOL_TEMPLATE, tools=[ADD])).json()
    assert "tool_calls" not in answer["message"]
    assert answer["done_reason"] == "length"


async def test_earlier_calls_and_their_results_reach_the_template() -> None:
    client = FakeClient(says("3"))
    messages = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [{"function": {"name": "plus", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "plus", "content": "2"},
    ]
    await _chat(client, chat_template=TOOL_TEMPLATE, messages=messages)
    assert prompt_text(client) == (
        '<user>hi<assistant><tool_call>\n{"name": "plus", "arguments": {"a": 1}}\n</tool_call>'
        "<tool>2[call_1_0]<assistant>"
    )


async def test_a_thought_stands_apart() -> None:
    script = says("hmm</think>\n\nYes.", finish=FinishReason.STOP)
    whole = (await _chat(FakeClient(script), chat_template=THINKING_TEMPLATE)).json()
    assert whole["message"] == {"role": "assistant", "content": "Yes.", "thinking": "hmm"}
    response = await _post(FakeClient(script), "/api/generate", {"prompt": "x"}, chat_template=THINKING_TEMPLATE)
    assert "".join(line.get("thinking", "") for line in _lines(response)) == "hmm"
    assert "".join(line["response"] for line in _lines(response)) == "Yes."


@pytest.mark.parametrize(
    ("think", "end", "ignored"),
    [
        (True, "<think>", None),
        (False, "<think></think>", None),
        ("high", "<think>", "think"),  # the template knows no levels
        (None, "<think>", None),
    ],
)
async def test_think_turns_thinking_on_and_off(think: Any, end: str, ignored: str | None) -> None:
    client = FakeClient(says("x"))
    response = await _chat(client, chat_template=THINKING_TEMPLATE, think=think)
    assert response.status_code == 200
    assert prompt_text(client).endswith(f"<assistant>{end}")
    assert response.headers.get("x-ignored-parameters") == ignored


async def test_not_to_think_is_nothing_to_a_model_that_does_not() -> None:
    response = await _chat(FakeClient(says("x")), think=False)
    assert (response.status_code, response.headers.get("x-ignored-parameters")) == (200, None)


async def test_a_format_is_a_grammar() -> None:
    client = FakeClient(says("{}"))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    await _chat(client, format="json")
    await _chat(client, format=schema)
    await _chat(client, format="")
    grammars = [request.grammar for request in client.requests]
    assert grammars[0] is not None
    assert grammars[1] is not None
    assert '"a' in grammars[1] or '\\"a' in grammars[1]
    assert grammars[2] is None


async def test_log_probabilities_come_with_their_tokens() -> None:
    whole = (await _chat(FakeClient(says("ab")), logprobs=True, top_logprobs=1)).json()
    streamed = _lines(await _chat(FakeClient(says("ab")), logprobs=True, top_logprobs=1, stream=True))
    assert [score["token"] for score in whole["logprobs"]] == ["a", "b"]
    assert whole["logprobs"][0]["top_logprobs"][0]["token"] == "a"
    assert [score for line in streamed for score in line.get("logprobs", [])] == whole["logprobs"]
    raw = {"prompt": "x", "raw": True, "stream": False, "logprobs": True}
    assert len((await _post(FakeClient(says("ab")), "/api/generate", raw)).json()["logprobs"]) == 2


async def test_a_stream_that_breaks_ends_with_an_error() -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), EngineDied("the engine ended")]

    first, last = _lines(await _chat(FakeClient(script), stream=True))
    assert first["message"]["content"] == "H"
    assert last == {"error": "the engine ended"}


async def test_the_model_is_described() -> None:
    info = engine_info(
        weight_bytes=1000, weight_formats={"Q4_1": 30, "float32": 5}, generation_defaults={"temperature": 0.7}
    )
    async with http(make_app(FakeClient(says("x"), info), chat_template=THINKING_TEMPLATE)) as api:
        (card,) = (await api.get("/api/tags")).json()["models"]
        (running,) = (await api.get("/api/ps")).json()["models"]
        shown = (await api.post("/api/show", json={"model": f"{MODEL}:latest"})).json()
        by_old_name = await api.post("/api/show", json={"name": MODEL})
        other = await api.post("/api/show", json={"model": "other"})
        nameless = await api.post("/api/show", json={})
    assert (card["name"], card["size"], card["details"]["quantization_level"]) == (f"{MODEL}:latest", 1000, "Q4_1")
    assert (running["context_length"], running["size_vram"]) == (MAX_MODEL_LEN, 0)
    assert running["digest"] == card["digest"]
    assert len(card["digest"]) == 64
    assert shown["template"] == THINKING_TEMPLATE
    assert shown["parameters"].split() == ["temperature", "0.7"]
    assert shown["model_info"]["general.architecture"] == "tiny"
    assert shown["model_info"]["tiny.context_length"] == MAX_MODEL_LEN
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert by_old_name.json() == shown
    assert (other.status_code, nameless.status_code) == (404, 400)


async def test_code_models_can_insert() -> None:
    fim = {"<|fim_prefix|>": 259, "<|fim_suffix|>": 260, "<|fim_middle|>": 261}
    tokenizer = Tokenizer.from_buffer(byte_tokenizer())
    tokenizer.add_special_tokens([AddedToken(text) for text in fim])
    info = msgspec.structs.replace(engine_info().tokenizer, tokenizer_json=tokenizer.to_str().encode())
    client = FakeClient(says("x"), engine_info(tokenizer=info))
    async with http(make_app(client)) as api:
        shown = (await api.post("/api/show", json={"model": MODEL})).json()
        body = {"model": MODEL, "prompt": "a", "suffix": "b", "stream": False}
        assert (await api.post("/api/generate", json=body)).json()["response"] == "x"
    assert "insert" in shown["capabilities"]
    assert {*fim.values()} <= {*client.requests[0].prompt_ids}
    assert (await _post(FakeClient(says("x")), "/api/generate", {"prompt": "a", "suffix": "b"})).status_code == 400


async def test_the_digest_tells_models_apart() -> None:
    digests = set()
    for changes in ({}, {"weight_bytes": 7}, {"dtype": "bfloat16"}):
        async with http(make_app(FakeClient(says("x"), engine_info(**changes)))) as api:
            digests.add((await api.get("/api/tags")).json()["models"][0]["digest"])
    assert len(digests) == 3


async def test_version_and_probe() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        version = (await api.get("/api/version")).json()
        probes = [await api.head("/"), await api.get("/"), await api.head("/api/version"), await api.head("/api/tags")]
    assert version["version"].split(".")[0].isdecimal()
    assert [probe.status_code for probe in probes] == [200] * 4
    assert probes[1].text == "headrace is running"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/embed"),
        ("POST", "/api/embeddings"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
    ],
)
async def test_what_is_not_served_is_said(method: str, path: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.request(method, path, json={})
    assert response.status_code == 404
    assert "is not served here: this server" in response.json()["error"]


async def test_other_errors_have_ollamas_form_too() -> None:
    async with http(make_app(FakeClient(says("x")), api_key=("key",))) as api:
        bare = await api.get("/api/tags")
        unknown = await api.get("/api/unheard-of", headers={"authorization": "Bearer key"})
        keyed = await api.get("/api/tags", headers={"authorization": "Bearer key"})
    assert (bare.status_code, list(bare.json())) == (401, ["error"])
    assert (unknown.status_code, unknown.json()) == (
        404,
        {"error": "there is nothing at this path; /docs shows what there is"},
    )
    assert keyed.status_code == 200
