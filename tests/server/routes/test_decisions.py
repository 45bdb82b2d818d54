"""POST /v1/decisions over ASGI, with a fake engine: the answers, their usage and how requests end."""

import asyncio
from typing import Any

import pytest

from engine.protocol import FinishReason, RequestOutput
from tests.helpers.decisions import (
    BODY,
    CHOICE,
    PREDICATE,
    SCORE,
    URL,
    decide,
    decision_client,
    post,
    probability,
)
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, prompt_text

pytestmark = pytest.mark.fast


async def test_answers_have_openais_shape_and_the_labels_probabilities() -> None:
    client = decision_client()
    answer = await decide(client, BODY)
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


async def test_usage_counts_the_state_once_and_what_was_cached_before() -> None:
    client = decision_client()
    usage = (await decide(client, BODY))["usage"]
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
    answer = await decide(decision_client(), {**BODY, "questions": [long, PREDICATE], "min_mass": 1e-7})
    assert answer["answers"][0] == {"type": "refusal", "name": "kind"}
    assert answer["answers"][1]["type"] == "predicate"
    response = await post(decision_client(), {**BODY, "min_mass": None}, decision_min_mass=1.0)
    assert {each["type"] for each in response.json()["answers"]} == {"refusal"}


async def test_rotations_of_the_options_are_averaged_and_details_are_given() -> None:
    client = decision_client()
    choices = [{"value": value} for value in ("raft", "boat", "ship")]
    questions = [{"type": "choice", "choices": choices}, SCORE]
    answer = await decide(client, {**BODY, "questions": questions, "permutations": 2, "details": True})
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
    refused = await decide(decision_client(), {**BODY, "details": True, "min_mass": 1.0})
    assert [each["details"]["mass"] < 1 for each in refused["answers"]] == [True] * 3


async def test_options_share_the_rows_of_their_beginnings() -> None:
    client = decision_client()
    labels = [chr(0x4E00 + number) for number in range(255)]  # 1 first byte, 4 second ones
    answer = await decide(client, {**BODY, "questions": [{**SCORE, "levels": [{"label": each} for each in labels]}]})
    assert [each["label"] for each in answer["answers"][0]["probabilities"]] == labels
    assert client.requests[0].sampling.logprob_token_ids == (0xE4,)
    assert len(client.requests) == 6


async def test_400_questions_are_one_request_and_keep_their_order() -> None:
    client = decision_client()
    client.capacity = 1
    questions = [{**PREDICATE, "name": f"q{number}"} for number in range(400)]
    answer = await decide(client, {**BODY, "questions": questions})
    assert [each["name"] for each in answer["answers"]] == [f"q{number}" for number in range(400)]


async def test_a_null_field_counts_as_left_out() -> None:
    optional = ("model", "min_mass", "timeout", "service_tier", "priority", "cache_salt", "permutations", "details")
    body = {name: value for name, value in BODY.items() if name not in optional}
    nulls = {**dict.fromkeys(optional), "calibrated": None, "prompt_cache_key": None}
    assert await decide(decision_client(), {**body, **nulls}) == await decide(decision_client(), body)


async def test_without_a_prefix_cache_each_question_counts_the_input() -> None:
    for caches, most in ((True, 1), (False, 3)):
        client = decision_client()
        await post(client, {**BODY, "input": "x" * 1000}, enable_prefix_caching=caches)
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
    assert (await post(client, BODY)).status_code == 429


async def test_a_client_that_leaves_aborts_the_request() -> None:
    client = FakeClient(lambda _: [None], engine_info(max_model_len=4096))
    posting = asyncio.create_task(post(client, BODY))
    while not client.num_open:
        await asyncio.sleep(0)
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    assert client.num_open == 0


async def test_decisions_are_counted() -> None:
    async with http(make_app(decision_client())) as api:
        await api.post(URL, json={**BODY, "questions": [PREDICATE, PREDICATE]})
        metrics = (await api.get("/metrics")).text
    assert f'headrace_decision_answers_total{{kind="predicate",model_name="{MODEL}",outcome="answer"}} 2.0' in metrics
    assert f'headrace_decision_questions_sum{{model_name="{MODEL}"}} 2.0' in metrics
    assert f'headrace_decision_label_mass_count{{model_name="{MODEL}"}} 2.0' in metrics
