"""POST /v1/decisions over ASGI, with a fake engine whose distributions depend on the prompt alone."""

import asyncio
from typing import Any

import httpx
import pytest

from engine.protocol import FinishReason, RequestOutput
from server.decisions.wording import QUESTION_BEGIN
from tests.helpers.decisions import decision_client, probability
from tests.helpers.fake_client import (
    BOS,
    CHAT_TEMPLATE,
    MODEL,
    FakeClient,
    engine_info,
    http,
    make_app,
    pooling_client,
    prompt_text,
)

pytestmark = pytest.mark.fast

URL = "/v1/decisions"
PREDICATE = {"type": "predicate", "instructions": "It floats."}
CHOICE = {
    "type": "choice",
    "name": "kind",
    "instructions": "What is it?",
    "choices": [{"value": "boat", "description": "it carries people"}, {"value": "boats"}, {"value": True}],
}
SCORE = {"type": "score", "instructions": "How wet is it?", "levels": [{"label": "dry"}, {"label": "wet"}]}
BODY = {"model": MODEL, "input": "A raft.", "questions": [PREDICATE, CHOICE, SCORE], "min_mass": 0}


async def _post(client: FakeClient, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(URL, json=body)


async def _answer(client: FakeClient, body: dict[str, Any]) -> Any:
    response = await _post(client, body)
    assert response.status_code == 200, response.text
    assert client.num_open == 0
    return response.json()


async def _error(client: FakeClient, changes: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = await _post(client, {**BODY, **changes}, **options)
    assert response.status_code == 400, response.text
    assert not client.requests
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_answers_have_openais_shape_and_the_labels_probabilities() -> None:
    client = decision_client()
    answer = await _answer(client, BODY)
    prompts = [request.prompt_ids for request in client.requests[:3]]
    spelled = [
        {text: probability(prompt, text) for text in texts}
        for prompt, texts in zip(
            prompts,
            [
                ("yes", "Yes", "no", "No"),
                ("boat", "Boat", "boats", "Boats", "true", "True"),
                ("dry", "Dry", "wet", "Wet"),
            ],
            strict=True,
        )
    ]
    yes, no = (spelled[0][a] + spelled[0][b] for a, b in (("yes", "Yes"), ("no", "No")))
    boats = spelled[1]["boats"] + spelled[1]["Boats"]
    masses = [spelled[1]["boat"] + spelled[1]["Boat"] - boats, boats, spelled[1]["true"] + spelled[1]["True"]]
    kinds = [mass / sum(masses) for mass in masses]
    dry, wet = (spelled[2][a] + spelled[2][b] for a, b in (("dry", "Dry"), ("wet", "Wet")))
    assert [each["type"] for each in answer["answers"]] == ["predicate", "choice", "score"]
    predicate, choice, score = answer["answers"]
    assert predicate == {"type": "predicate", "name": None, "probability": pytest.approx(yes / (yes + no), abs=2e-6)}
    best = max(range(3), key=kinds.__getitem__)
    assert choice == {
        "type": "choice",
        "name": "kind",
        "choice": ["boat", "boats", True][best],
        "confidence": pytest.approx((3 * kinds[best] - 1) / 2, abs=1e-5),
        "probabilities": [
            {"value": value, "probability": pytest.approx(each, abs=2e-6)}
            for value, each in zip(["boat", "boats", True], kinds, strict=True)
        ],
    }
    assert score["probabilities"] == [
        {"label": "dry", "value": 0, "probability": pytest.approx(dry / (dry + wet), abs=2e-6)},
        {"label": "wet", "value": 1, "probability": pytest.approx(wet / (dry + wet), abs=2e-6)},
    ]
    assert score["score"] == pytest.approx(wet / (dry + wet), abs=2e-6)
    assert answer["model"] == MODEL


async def test_the_prompt_has_the_state_first_and_the_question_before_the_answer() -> None:
    client = decision_client()
    response = await _post(client, BODY)
    assert response.headers["x-decision-wording"] == "3"
    assert prompt_text(client) == (
        f"user\nInput:\nA raft.{QUESTION_BEGIN}: Is the following statement about the input true?\n"
        "It floats.\nassistant\n"
    )
    assert prompt_text(client, 1).endswith(
        "Question: What is it?\nOptions:\nboat: it carries people\nboats\ntrue\n"
        "Answer with the text of one option.\nassistant\n"
    )
    assert {request.cache_salt for request in client.requests} == {""}


async def test_usage_counts_the_state_once_and_what_was_cached_before() -> None:
    client = decision_client()
    usage = (await _answer(client, BODY))["usage"]
    prompts = [request.prompt_ids for request in client.requests[:3]]
    num_state = prompts[0].index(ord(":"), len("user\nInput:\n"))  # up to the colon behind "Question"
    num_tokens = num_state + sum(len(prompt) - num_state for prompt in prompts)
    assert usage == {
        "input_tokens": num_tokens,
        "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_tokens,
    }


async def test_unlikely_labels_are_refused_and_the_other_answers_stand() -> None:
    long = {**CHOICE, "choices": [{"value": "a long label"}, {"value": "another long label"}]}
    answer = await _answer(decision_client(), {**BODY, "questions": [long, PREDICATE], "min_mass": 1e-7})
    assert answer["answers"][0] == {"type": "refusal", "name": "kind"}
    assert answer["answers"][1]["type"] == "predicate"
    response = await _post(decision_client(), {**BODY, "min_mass": None}, decision_min_mass=1.0)
    assert {each["type"] for each in response.json()["answers"]} == {"refusal"}


async def test_rotations_of_the_options_are_averaged_and_details_are_given() -> None:
    client = decision_client()
    choices = [{"value": value} for value in ("raft", "boat", "ship")]
    questions = [{"type": "choice", "choices": choices}, SCORE]
    answer = await _answer(client, {**BODY, "questions": questions, "permutations": 2, "details": True})
    first, second = (client.requests[number].prompt_ids for number in range(2))
    assert "Options:\nraft\nboat\nship\n" in prompt_text(client, 0)
    assert "Options:\nboat\nship\nraft\n" in prompt_text(client, 1)
    raw = [
        (probability(first, *spelled) + probability(second, *spelled)) / 2
        for spelled in (("raft", "Raft"), ("boat", "Boat"), ("ship", "Ship"))
    ]
    choice, score = answer["answers"]
    assert choice["details"]["raw_probabilities"] == pytest.approx(raw, rel=1e-4)
    assert choice["details"]["mass"] == pytest.approx(sum(raw), rel=1e-4)
    given = [each["probability"] for each in choice["probabilities"]]
    assert given == pytest.approx([each / sum(raw) for each in raw], abs=2e-6)
    assert sum(score["details"]["raw_probabilities"]) == pytest.approx(score["details"]["mass"])
    refused = await _answer(decision_client(), {**BODY, "details": True, "min_mass": 1.0})
    assert [each["details"]["mass"] < 1 for each in refused["answers"]] == [True] * 3


async def test_options_that_read_alike_are_numbered() -> None:
    client = decision_client()
    question = {"type": "choice", "instructions": "", "choices": [{"value": True}, {"value": "true"}]}
    answer = await _answer(client, {**BODY, "questions": [question]})
    assert [each["value"] for each in answer["answers"][0]["probabilities"]] == [True, "true"]
    assert (
        'Which option fits the input best?\nOptions:\n1. true\n2. "true"\n'
        "Answer with the number of one option instead of its text."
    ) in prompt_text(client)
    assert client.requests[0].sampling.logprob_token_ids == (ord("1"), ord("2"))


async def test_options_share_the_rows_of_their_beginnings() -> None:
    client = decision_client()
    labels = [chr(0x4E00 + number) for number in range(255)]  # 1 first byte, 4 second ones
    answer = await _answer(client, {**BODY, "questions": [{**SCORE, "levels": [{"label": each} for each in labels]}]})
    assert [each["label"] for each in answer["answers"][0]["probabilities"]] == labels
    assert client.requests[0].sampling.logprob_token_ids == (0xE4,)
    assert len(client.requests) == 6


async def test_400_questions_are_one_request_and_keep_their_order() -> None:
    client = decision_client()
    client.capacity = 1
    questions = [{**PREDICATE, "name": f"q{number}"} for number in range(400)]
    answer = await _answer(client, {**BODY, "questions": questions})
    assert [each["name"] for each in answer["answers"]] == [f"q{number}" for number in range(400)]


ITEMS = [
    {"role": "developer", "content": [{"type": "input_text", "text": "Be strict."}]},
    {"type": "message", "role": "user", "content": [{"type": "input_json", "data": {"a": [1, "é"]}}]},
    {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "a raft"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
]


async def test_items_are_read_with_their_speakers() -> None:
    client = decision_client()
    await _answer(client, {**BODY, "input": ITEMS})
    assert (
        'Input:\ndeveloper: Be strict.\n\nuser: {"a":[1,"é"]}\n\nassistant calls look: {}\n\n'
        f"output of the call: a raft\n\nassistant: No.{QUESTION_BEGIN}:"
    ) in prompt_text(client)


def _marked(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text, "prompt_cache_breakpoint": {"mode": "explicit"}}


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None], ids=["chat", "plain"])
async def test_a_breakpoint_is_a_branch_point_behind_its_part(template: str | None) -> None:
    client = decision_client(chat_template=template)
    items = [
        {"role": "developer", "content": [_marked("Be <|im_end|>"), {"type": "input_text", "text": "strict."}]},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [_marked("a raft")]},
        {"role": "user", "content": [_marked("end")]},
    ]
    response = await _post(client, {**BODY, "input": items})
    assert "x-ignored-parameters" not in response.headers, response.text
    (request,) = client.scoring_requests
    texts = [bytes(each for each in request.prompt_ids[:end] if each < 256).decode() for end in request.branch_points]
    first = "Input:\ndeveloper: Be <|im_end|>"
    second = f"{first}\nstrict.\n\nassistant calls look: {{}}\n\noutput of the call: a raft"
    begin = "" if template is None else "user\n"
    assert texts == [begin + first, begin + second, f"{begin}{second}\n\nuser: end"]


async def test_the_last_four_breakpoints_are_branch_points() -> None:
    client = decision_client()
    await _answer(client, {**BODY, "input": [{"role": "user", "content": [_marked(each) for each in "abcdef"]}]})
    (request,) = client.scoring_requests
    assert [request.prompt_ids[end - 1] for end in request.branch_points] == [*b"cdef"]


async def test_control_tokens_in_texts_are_plain_text() -> None:
    client = decision_client()
    question = {**PREDICATE, "instructions": "<|im_start|>"}
    await _answer(client, {**BODY, "input": "<|im_end|>", "questions": [question]})
    assert sum(each >= BOS for each in client.requests[0].prompt_ids) == 3  # the template's own
    assert f"<|im_end|>{QUESTION_BEGIN}" in prompt_text(client)
    assert "true?\n<|im_start|>\n" in prompt_text(client)


THINKING = CHAT_TEMPLATE.replace(
    "assistant\n{% endif", "assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (THINKING, "assistant\n<think>\n\n</think>\n\n"),
        (CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n"), "assistant\n<think>\n\n</think>\n\n"),
        (
            CHAT_TEMPLATE.replace("assistant\n", "assistant")
            + "{# <|end|><|start|>assistant<|channel|>final<|message|> #}",
            "assistant<|channel|>final<|message|>",
        ),
        (None, "It floats.\nAnswer:"),
    ],
    ids=["switch", "open", "channels", "no template"],
)
async def test_the_answer_comes_without_a_thought(template: str | None, end: str) -> None:
    client = decision_client(chat_template=template)
    await _answer(client, {**BODY, "questions": [PREDICATE]})
    assert prompt_text(client).endswith(end)
    leads = {ord("y"), ord("n"), ord("Y"), ord("N")}
    assert {*client.requests[0].sampling.logprob_token_ids} == leads | (set() if end[-1] == "\n" else {ord(" ")})


async def test_a_template_that_hides_the_message_is_refused() -> None:
    error = await _error(decision_client(chat_template="{{ messages[0].role }}"), {})
    assert (error["param"], "--chat-template" in error["message"]) == ("model", True)


def _questions(*questions: Any) -> dict[str, Any]:
    return {"questions": [*questions]}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "a string or a list of items"),
    ({"input": "  "}, "input", "input is empty"),
    ({"input": []}, "input", "at least 1"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
        "only text",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "7", "output": ""}]},
        "input[0].call_id",
        "give the call too",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_json", "data": 3}]}]},
        "input[0].content[0].data",
        "an object",
    ),
    (_questions(), "questions", "at least 1"),
    ({"questions": [PREDICATE] * 401}, "questions", "at most 400"),
    (_questions({"type": "box"}), "questions[0]", "must be one of predicate, choice, score"),
    (_questions({"type": "predicate"}), "questions[0].instructions", "is missing"),
    (_questions({**PREDICATE, "instructions": " "}), "questions[0].instructions", "needs a statement"),
    (_questions(PREDICATE, {**CHOICE, "choices": []}), "questions[1].choices", "at least 2"),
    (_questions({**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}), "questions[0].choices", "at most 255"),
    (
        _questions({**CHOICE, "choices": [{"value": "a"}, {"value": " "}]}),
        "questions[0].choices[1].value",
        "other than spaces",
    ),
    (
        _questions({**CHOICE, "choices": [{"value": "a"}, {"value": True}, {"value": "a"}]}),
        "questions[0].choices",
        "items 0 and 2",
    ),
    (_questions({**SCORE, "levels": [{"label": "a"}, {"label": "a"}]}), "questions[0].levels", "items 0 and 1"),
    (
        _questions({**SCORE, "levels": [{"label": "x" * 300}, {"label": "a"}]}),
        "questions[0].levels[0].label",
        "the limit is 256",
    ),
    (
        {"input": [{"role": "user", "content": [{**_marked("a"), "prompt_cache_breakpoint": {"mode": "implicit"}}]}]},
        "input[0].content[0].prompt_cache_breakpoint.mode",
        "'explicit'",
    ),
    ({"min_mass": 1.5}, "min_mass", "at most 1"),
    ({"permutations": 0}, "permutations", "at least 1"),
    ({"permutations": 17}, "permutations", "at most 16"),
    ({"stream": True}, "stream", "not supported"),
    ({"tools": [{}]}, "tools", "not supported"),
]


@pytest.mark.parametrize(("changes", "param", "message"), BAD)
async def test_a_bad_body_is_refused_by_the_fields_name(changes: dict[str, Any], param: str, message: str) -> None:
    error = await _error(decision_client(), changes)
    assert error["param"] == param
    assert message in error["message"]


def _nested(depth: int) -> Any:
    return {} if depth == 1 else {"a": _nested(depth - 1)}


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (_nested(33), "32 levels; it has 33"),
        ({"a": [0] * 10_000}, "10,000 values; it has 10,002"),
        ({"a": "x" * 2**18}, "256 KiB) as compact JSON; it has 262,152"),
    ],
    ids=["depth", "values", "size"],
)
async def test_a_json_part_has_limits(data: Any, limit: str) -> None:
    error = await _error(
        decision_client(), {"input": [{"role": "user", "content": [{"type": "input_json", "data": data}]}]}
    )
    assert (error["param"], limit in error["message"]) == ("input[0].content[0].data", True)


async def test_a_question_beyond_the_context_is_named() -> None:
    error = await _error(decision_client(), _questions(PREDICATE, {**PREDICATE, "instructions": "x" * 5000}))
    assert (error["param"], error["code"]) == ("questions[1]", "context_length_exceeded")


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [("MAX_QUESTION_TOKENS", 300, "tokens, each"), ("MAX_SPELLING_TOKENS", 50, "tokens in the spellings of their")],
)
async def test_tokens_of_all_questions_together_are_limited(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, message: str
) -> None:
    questions = _questions(PREDICATE, SCORE, CHOICE)
    assert (await _post(decision_client(), {**BODY, **questions, "permutations": 2})).status_code == 200
    monkeypatch.setattr(f"server.decisions.prompt.{limit}", most)
    assert (await _post(decision_client(), {**BODY, **questions})).status_code == 200
    error = await _error(decision_client(), {**questions, "permutations": 2})
    assert error["param"] == "questions[2]"
    assert message in error["message"]
    assert f"the limit is {most}; ask fewer questions in one request" in error["message"]


async def test_a_pooling_model_is_not_suited() -> None:
    response = await _post(pooling_client(), BODY)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "model_not_suited")


async def test_fields_without_effect_are_listed_or_refused() -> None:
    fields = {"prompt_cache_key": "k", "safety_identifier": "s", "unknown": 1}
    body = {**BODY, **fields, "questions": [{**PREDICATE, "instructions": [_marked("It floats.")]}]}
    listed = (await _post(decision_client(), body)).headers["x-ignored-parameters"].split(", ")
    assert {*listed} == {*fields, "questions[0].instructions[0].prompt_cache_breakpoint"}
    error = await _error(decision_client(), {"unknown": 1}, strict_parameters=True)
    assert error["code"] == "unknown_parameter"


async def test_a_null_field_counts_as_left_out() -> None:
    optional = ("model", "min_mass", "timeout", "service_tier", "priority", "cache_salt", "permutations", "details")
    body = {name: value for name, value in BODY.items() if name not in optional}
    nulls = {**dict.fromkeys(optional), "calibrated": None, "prompt_cache_key": None}
    assert await _answer(decision_client(), {**body, **nulls}) == await _answer(decision_client(), body)


async def test_without_a_prefix_cache_each_question_counts_the_input() -> None:
    for caches, most in ((True, 1), (False, 3)):
        client = decision_client()
        await _post(client, {**BODY, "input": "x" * 1000}, enable_prefix_caching=caches)
        assert most * 1000 < max(client.checked_tokens) < (most + 1) * 1000


def _ends(**output: Any) -> FakeClient:
    return FakeClient(lambda request: [RequestOutput(id=request.id, **output)], engine_info(max_model_len=4096))


@pytest.mark.parametrize(
    ("output", "status", "is_counted"),
    [
        ({"finish_reason": FinishReason.TIMEOUT}, 504, True),
        ({"finish_reason": FinishReason.QUEUE_TIMEOUT}, 503, True),
        ({"finish_reason": FinishReason.ERROR, "error": "it broke"}, 500, True),
        ({"finish_reason": FinishReason.ABORT}, 503, False),
    ],
    ids=["timeout", "queue timeout", "error", "abort"],
)
async def test_an_end_without_answers_is_an_error(output: dict[str, Any], status: int, is_counted: bool) -> None:
    client = _ends(**output)
    async with http(make_app(client, queue_timeout=60.0)) as api:
        response = await api.post(URL, json={**BODY, "timeout": 60.0})
        metrics = (await api.get("/metrics")).text
    assert response.status_code == status, response.text
    assert client.num_open == 0
    reason = output["finish_reason"].value
    line = f'headrace_request_success_total{{finished_reason="{reason}",model_name="{MODEL}"}} 1.0'
    assert (line in metrics) is is_counted


async def test_rotations_do_not_count_as_questions() -> None:
    async with http(make_app(decision_client())) as api:
        assert (await api.post(URL, json={**BODY, "permutations": 3})).status_code == 200
        metrics = (await api.get("/metrics")).text
    assert f'headrace_decision_questions_sum{{model_name="{MODEL}"}} 3.0' in metrics


async def test_a_full_queue_refuses_the_decision() -> None:
    client = decision_client()
    client.capacity = 0
    assert (await _post(client, BODY)).status_code == 429


async def test_a_client_that_leaves_aborts_the_request() -> None:
    client = FakeClient(lambda _: [None], engine_info(max_model_len=4096))
    post = asyncio.create_task(_post(client, BODY))
    while not client.num_open:
        await asyncio.sleep(0)
    post.cancel()
    await asyncio.gather(post, return_exceptions=True)
    assert client.num_open == 0


async def test_decisions_are_counted() -> None:
    async with http(make_app(decision_client())) as api:
        await api.post(URL, json={**BODY, "questions": [PREDICATE, PREDICATE]})
        metrics = (await api.get("/metrics")).text
    assert f'headrace_decision_answers_total{{kind="predicate",model_name="{MODEL}",outcome="answer"}} 2.0' in metrics
    assert f'headrace_decision_questions_sum{{model_name="{MODEL}"}} 2.0' in metrics
    assert f'headrace_decision_label_mass_count{{model_name="{MODEL}"}} 2.0' in metrics
