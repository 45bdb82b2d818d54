"""Every fault of a client's is answered with a 4xx and OpenAI's error object that names the field."""

import gzip
import re
from typing import Any

import pytest

from engine.protocol import EngineRequest
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MAX_MODEL_LEN, MODEL, VOCAB_SIZE, FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
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
    ("prompt", [1, True], "a list of token ids"),
    ("prompt", [1, 2.0], "a list of token ids"),
    ("prompt", [-1], "the token id -1"),
    ("prompt", [[1], [VOCAB_SIZE]], f"the token id {VOCAB_SIZE}"),
    ("logprobs", 21, "at most 20"),
    ("logprobs", -1, "at least 0"),
    ("logprobs", True, "it must be an integer"),
    ("best_of", 0, "at least 1"),
    ("prediction", {"type": "content", "content": "x"}, "not supported"),
]


def _check(response: Any, status: int, param: str | None, part: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert part in error["message"], error["message"]


@pytest.mark.parametrize(("field", "value", "part"), FIELDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_value_names_field_and_limit(field: str, value: Any, part: str, stream: bool) -> None:
    client = FakeClient(says("x"))
    body = {"max_tokens": 16, **({"stream": True} if stream and not field.startswith("stream") else {}), field: value}
    async with http(make_app(client)) as api:
        _check(await api.post(CHAT_URL, json={"messages": [MESSAGE], **body}), 400, field, part)
        _check(await api.post(TEXT_URL, json={"prompt": "hi", **body}), 400, field, part)
    assert client.requests == []


@pytest.mark.parametrize(("field", "value", "part"), CHAT_FIELDS)
async def test_a_wrong_chat_field_names_field_and_limit(field: str, value: Any, part: str) -> None:
    name = re.split(r"[.\[]", field)[0]
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(CHAT_URL, json={"messages": [MESSAGE], name: value})
    _check(response, 400, field, part)


@pytest.mark.parametrize(("field", "value", "part"), TEXT_FIELDS)
async def test_a_wrong_completion_field_names_field_and_limit(field: str, value: Any, part: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "hi", field: value})
    _check(response, 400, field, part)


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


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the body is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"prompt": "a", "\\udc00": 1}', "not valid JSON"),
        (b'{"prompt": ' + b"[" * 60_000, "the limit is 64"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(content: bytes, part: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        _check(await api.post(TEXT_URL, content=content, headers=JSON), 400, None, part)


@pytest.mark.parametrize(
    ("content", "param", "part"),
    [
        (b'{"prompt": "a", "temperature": NaN}', "temperature", "temperature is NaN"),
        (b'{"prompt": "a", "temperature": 1e999}', "temperature", "temperature is 1e999"),
        (b'{"prompt": "\\ud800 lone"}', "prompt", "lone surrogate \\ud800"),
        (b'{"prompt": "\xff"}', "prompt", "byte 0xff at position 12"),
    ],
)
async def test_a_value_that_is_no_json_is_named(content: bytes, param: str, part: str) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        _check(await api.post(TEXT_URL, content=content, headers=JSON), 400, param, part)


@pytest.mark.parametrize("depth", [70, 500, 700, 980])
@pytest.mark.parametrize("path", [CHAT_URL, "/tokenize"])
@pytest.mark.parametrize("place", ["message", "chat_template_kwargs"])
async def test_deep_nesting_is_refused_before_anything_walks_it(
    depth: int, path: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    nested = b"[" * depth + b"]" * depth
    extra = b', "chat_template_kwargs": {"a": %b}' % nested if place == "chat_template_kwargs" else b""
    in_message = b', "a": %b' % nested if place == "message" else b""
    content = b'{"messages": [{"role": "user", "content": "hi"%b}]%b}' % (in_message, extra)
    async with http(make_app(FakeClient(says("x")))) as api:
        _check(await api.post(path, content=content, headers=JSON), 400, None, "the limit is 64")
    assert not caplog.records


@pytest.mark.parametrize("browser", [{"origin": "https://page.example"}, {"sec-fetch-site": "cross-site"}])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_refused_from_a_page(content_type: str, browser: dict[str, str]) -> None:
    headers = {"content-type": content_type, **browser}
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, content=b'{"prompt": "a"}', headers=headers)
    _check(response, 400, None, "must be application/json")


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/x-www-form-urlencoded"}])
async def test_programs_need_not_name_the_content_type(headers: dict[str, str]) -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, content=b'{"prompt": "a"}', headers=headers)
    assert response.status_code == 200


async def test_an_encoded_body_is_refused_and_one_that_says_it_is_not_is_read() -> None:
    packed = gzip.compress(b'{"prompt": "a"}')
    async with http(make_app(FakeClient(says("x")))) as api:
        refused = await api.post(TEXT_URL, content=packed, headers={**JSON, "content-encoding": "gzip"})
        read = await api.post(TEXT_URL, json={"prompt": "a"}, headers={"content-encoding": "UTF-8"})
    _check(refused, 400, None, "the content-encoding is 'gzip'")
    assert read.status_code == 200


async def test_a_body_beyond_the_limit_is_not_read() -> None:
    async with http(make_app(FakeClient(says("x")), max_request_bytes=100)) as api:
        announced = await api.post(TEXT_URL, json={"prompt": "x" * 100})
        chunked = await api.post(TEXT_URL, content=_chunks(), headers=JSON)
    for response in (announced, chunked):
        _check(response, 413, None, "more than 100 bytes")
        assert response.headers["connection"] == "close"


async def _chunks() -> Any:
    for _ in range(20):
        yield b"x" * 10


async def test_a_prompt_and_output_beyond_the_context_are_refused_with_the_numbers() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        both = await api.post(TEXT_URL, json={"prompt": "x" * 99, "max_tokens": 101})
        prompt = await api.post(TEXT_URL, json={"prompt": "x" * MAX_MODEL_LEN})
        prompt_alone = await api.post(TEXT_URL, json={"prompt": "x" * MAX_MODEL_LEN, "max_tokens": 1})
        chat = await api.post(CHAT_URL, json={"messages": [{"role": "user", "content": "x" * MAX_MODEL_LEN}]})
        fits = await api.post(TEXT_URL, json={"prompt": "x" * 99, "max_tokens": 100})
    _check(
        both,
        400,
        "max_tokens",
        "100 tokens and max_tokens is 101, more than the 100 that are left: the model takes 200 tokens of prompt and",
    )
    for response in (prompt, prompt_alone):
        _check(response, 400, "prompt", "the prompt has 201 tokens; the model takes 200")
    _check(chat, 400, "messages", "the prompt has 219 tokens")
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
    _check(response, status, param, "...")
    assert len(response.json()["error"]["message"]) < 300


async def test_an_empty_prompt_is_refused() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "", "add_special_tokens": False})
    _check(response, 400, "prompt", "at least one token")


async def test_two_limits_of_tokens_that_differ_are_refused() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        body = {"messages": [MESSAGE], "max_tokens": 3, "max_completion_tokens": 4}
        _check(await api.post(CHAT_URL, json=body), 400, "max_tokens", "give one of them")


async def test_a_full_queue_is_429_with_retry_after() -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    async with http(make_app(client)) as api:
        response = await api.post(CHAT_URL, json={"messages": [MESSAGE], "stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


async def test_unknown_paths_and_methods_have_openais_body() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        _check(await api.get("/v1/nothing"), 404, None, "nothing at this path, '/v1/nothing' (GET); /docs lists all")
        without_v1 = await api.post("/chat/completions", json={})
        wrong_method = await api.get(TEXT_URL)
    _check(without_v1, 404, None, "'/chat/completions' (POST); did you mean /v1/chat/completions? /docs lists all")
    _check(wrong_method, 405, None, f"{TEXT_URL!r} does not support this method, GET; it takes POST; /docs lists all")
    assert wrong_method.headers["allow"] == "POST"


async def test_an_unexpected_fault_is_a_500_that_hides_its_text(caplog: Any) -> None:
    def script(_request: EngineRequest) -> list[Step]:
        return [RuntimeError("secret")]

    async with http(make_app(FakeClient(script))) as api:
        response = await api.post(TEXT_URL, json={"prompt": "a secret prompt"}, headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "abc" in response.json()["error"]["message"]
    assert "request abc failed" in caplog.text
    assert "a secret prompt" not in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"a"), (b"host", b"b")], 400),
        ([], 400),
        ([(b"host", b"a"), (b"content-length", b"5"), (b"transfer-encoding", b"chunked")], 400),
        ([(b"host", b"a"), (b"x", b"y" * 70_000)], 431),
        ([(b"host", b"a")] + [(b"x", b"y")] * 300, 431),
    ],
)
async def test_a_malformed_head_is_refused(headers: list[tuple[bytes, bytes]], status: int) -> None:
    request = RawRequest(make_app(FakeClient(says("x"))), TEXT_URL, {"prompt": "a"}, headers=headers)
    async with request:
        await request.ended()
    assert request.status == status


@pytest.mark.parametrize("name", [b"x" * 30_000, b"x"])
async def test_a_request_target_counts_toward_the_head(name: bytes) -> None:
    headers = [(b"host", b"a"), (name, b"y" * 30_000)]
    request = RawRequest(
        make_app(FakeClient(says("x"))), "/live", {}, method="GET", query="q=" * 4_000, headers=headers
    )
    async with request:
        await request.ended()
    assert request.status == (431 if len(name) > 1 else 200)


async def test_what_fails_before_the_routes_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(FakeClient(says("x")))
    context = app.state.context

    class Broken:
        def begin(self, *_: object) -> None:
            raise RuntimeError("secret")

    monkeypatch.setattr(context, "tracing", Broken())
    async with http(app) as api:
        response = await api.get("/v1/models", headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "abc"
    assert "secret" not in response.text
    labels = {"method": "GET", "route": "unmatched", "status": "500"}
    assert context.metrics._families.registry.get_sample_value("headrace_http_requests_total", labels) == 1


async def test_a_body_that_does_not_come_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.body._BODY_TIMEOUT_S", 0.01)
    request = RawRequest(make_app(FakeClient(says("x"))), TEXT_URL, {"prompt": "a"})
    request.truncate_body()
    async with request:
        await request.ended()
    assert request.status == 408
    assert b'"request_timeout"' in request.body


async def test_a_body_that_is_not_json_is_told_once() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post(TEXT_URL, content=b'{"prompt": oops}', headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "the body is not valid JSON: invalid character (byte 11)"


async def test_tokenizing_nothing_says_what_may_be_given() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        _check(
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


async def test_responses_over_websocket_are_not_served() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.get("/v1/responses", headers={"upgrade": "websocket", "connection": "upgrade"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_served")
    assert "WebSockets; POST to this path" in response.json()["error"]["message"]
