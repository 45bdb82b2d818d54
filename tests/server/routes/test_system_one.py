"""POST /v1/systemone over ASGI, with a fake engine whose distributions depend on the prompt alone."""

from typing import Any

import httpx
import pytest

from server.decisions.wording import QUESTION_BEGIN
from tests.helpers.decisions import decision_client, probability
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, pooling_client, prompt_text

pytestmark = pytest.mark.fast

URL = "/v1/systemone"
NOUL = {"type": "noul", "instructions": "Does it float?"}
CHOICE = {
    "type": "choice",
    "instructions": "What is it?",
    "criteria": {"ship": {"carries": ["people"]}, "boat": None},
}
LEVELS = ["dry", {"wet": 1}]
SCORE = {"type": "score", "instructions": {"task": "How wet is it?"}, "criteria": LEVELS}
QUESTIONS = {"floats": NOUL, "kind": CHOICE, "wetness": SCORE}
BODY = {"model": MODEL, "state": {"text": "A raft."}, "questions": QUESTIONS, "min_mass": 0}


async def _post(client: FakeClient, changes: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(URL, json={**BODY, **changes})


async def test_answers_have_system_ones_shape_and_the_labels_probabilities() -> None:
    client = decision_client()
    response = await _post(client, {})
    prompts = [request.prompt_ids for request in client.requests[:3]]
    spellings = [
        (("yes", "Yes"), ("no", "No")),
        (("ship", "Ship"), ("boat", "Boat")),
        (("dry", "Dry"), ('{"wet":1}',)),
    ]
    masses = [[probability(ids, *each) for each in labels] for ids, labels in zip(prompts, spellings, strict=True)]
    yes, ship, dry = (pytest.approx(first / (first + second), abs=2e-6) for first, second in masses)
    no, boat, wet = (pytest.approx(second / (first + second), abs=2e-6) for first, second in masses)
    likeliest = max(masses[1]) / sum(masses[1])
    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["model"] == MODEL
    assert answer["answers"] == {
        "floats": {"type": "noul", "noul": yes},
        "kind": {
            "type": "choice",
            "choice": "ship" if masses[1][0] > masses[1][1] else "boat",
            "confidence": pytest.approx(2 * likeliest - 1, abs=1e-5),
            "probabilities": {"ship": ship, "boat": boat},
        },
        "wetness": {
            "type": "score",
            "score": wet,
            "confidence": pytest.approx(max(0, 1 - min(masses[2]) / sum(masses[2]) / 0.5), abs=1e-5),
            "legend": {"0": "dry", "1": {"wet": 1}},
            "probabilities": {"0": dry, "1": wet},
        },
    }
    assert no == 1 - answer["answers"]["floats"]["noul"]
    assert answer["usage"].keys() == {"input_tokens", "output_tokens"}
    assert answer["usage"]["input_tokens"] > len(prompts[0])
    assert response.headers["x-typesafe-request-id"] == response.headers["x-request-id"]
    assert response.headers["x-decision-wording"] == "3"


async def test_json_is_read_as_text_and_a_noul_as_a_question() -> None:
    client = decision_client()
    described = {"type": "noul", "criteria": {"true": "it swims", "false": None}}
    await _post(client, {"questions": {**QUESTIONS, "described": described}})
    assert prompt_text(client) == (
        f'user\nInput:\n{{"text":"A raft."}}{QUESTION_BEGIN}: Does it float?\nYes or no?\nassistant\n'
    )
    assert 'ship: {"carries":["people"]}\nboat\n' in prompt_text(client, 1)
    assert 'Question: {"task":"How wet is it?"}\nLevels, from the lowest to the highest:\ndry\n{"wet":1}\n' in (
        prompt_text(client, 2)
    )
    assert "Question: Which answer fits the input best?\n- yes: it swims\nYes or no?" in prompt_text(client, 3)


async def test_unlikely_labels_leave_their_question_out() -> None:
    unlikely = {"type": "choice", "criteria": {"a long label": None, "another long label": None}}
    answers = (await _post(decision_client(), {"questions": {"a": unlikely, "b": NOUL}, "min_mass": 1e-7})).json()
    assert [*answers["answers"]] == ["b"]
    none = (await _post(decision_client(), {"min_mass": None}, decision_min_mass=1.0)).json()
    assert none["answers"] == {}


async def test_details_and_permutations_are_as_in_decisions() -> None:
    client = decision_client()
    changes = {"questions": {"kind": CHOICE, "floats": NOUL}, "permutations": 4, "details": True}
    answers = (await _post(client, changes)).json()["answers"]
    assert ["\nboat\nship:" in prompt_text(client, number) for number in range(2)] == [False, True]
    details = answers["kind"]["details"]
    shares = [each / details["mass"] for each in details["raw_probabilities"]]
    assert shares == pytest.approx([*answers["kind"]["probabilities"].values()])
    assert len(answers["floats"]["details"]["raw_probabilities"]) == 2


async def test_a_single_label_is_certain_and_is_not_asked() -> None:
    client = decision_client()
    single = {"a": {"type": "choice", "criteria": {"x": None}}, "b": {"type": "score", "criteria": ["low"]}}
    answer = (await _post(client, {"questions": single})).json()
    assert not client.requests
    assert answer["answers"] == {
        "a": {"type": "choice", "choice": "x", "confidence": 1.0, "probabilities": {"x": 1.0}},
        "b": {"type": "score", "score": 0.0, "confidence": 1.0, "legend": {"0": "low"}, "probabilities": {"0": 1.0}},
    }
    assert answer["usage"] == {"input_tokens": 0, "output_tokens": 0}
    mixed = (await _post(client, {"questions": {**single, "c": NOUL}})).json()
    assert [*mixed["answers"]] == ["a", "b", "c"]


def _nested(depth: int) -> Any:
    return {} if depth == 1 else {"a": _nested(depth - 1)}


def _one(**question: Any) -> dict[str, Any]:
    return {"questions": {"q": question}}


WIDE = {"type": "choice", "criteria": dict.fromkeys(map(str, range(255)))}
BAD: list[tuple[dict[str, Any], list[str | int], str]] = [
    ({"state": None}, ["state"], "a string, an object or a list"),
    ({"state": " "}, ["state"], "state is empty"),
    ({"state": _nested(33)}, ["state"], "at most 32 levels; it has 33"),
    ({"questions": {}}, ["questions"], "1 to 400"),
    ({"questions": [NOUL]}, ["questions"], "a name for each question"),
    ({"questions": dict.fromkeys(map(str, range(401)), NOUL)}, ["questions"], "1 to 400 questions; it has 401"),
    (_one(type="box"), ["questions", "q"], "only text"),
    (_one(type="predicate"), ["questions", "q"], "must be one of noul, choice, score"),
    (_one(type="noul"), ["questions", "q"], "instructions or criteria"),
    (_one(type="noul", criteria={"true": None}), ["questions", "q"], "instructions or criteria"),
    (_one(type="noul", instructions=1), ["questions", "q", "instructions"], "a string, an object or a list"),
    (_one(type="choice"), ["questions", "q", "criteria"], "is missing"),
    (_one(type="choice", criteria={}), ["questions", "q", "criteria"], "at least 1"),
    (_one(type="choice", criteria={" ": None, "a": None}), ["questions", "q", "criteria"], "its label ' ' must have"),
    (
        _one(type="choice", criteria=dict.fromkeys(map(str, range(256)))),
        ["questions", "q", "criteria"],
        "at most 255",
    ),
    (_one(type="choice", criteria={"x" * 300: None, "a": None}), ["questions", "q", "criteria", "x" * 300], "is 256"),
    (_one(type="score", criteria=[]), ["questions", "q", "criteria"], "at least 1"),
    (_one(type="score", criteria=["a", ""]), ["questions", "q", "criteria", 1], "other than spaces"),
    (
        _one(type="score", criteria=["low", "high", "low"]),
        ["questions", "q", "criteria"],
        "items 0 and 2 have the same",
    ),
    (_one(type="score", criteria=[{"a": 1}, {"a": 1}]), ["questions", "q", "criteria"], "items 0 and 1 have the same"),
    (_one(type="score", criteria=["a", "x" * 300]), ["questions", "q", "criteria", 1], "the limit is 256"),
    ({"questions": dict.fromkeys(map(str, range(65)), WIDE)}, ["questions"], "have 16,575 options"),
    ({"questions": dict.fromkeys("abcde", WIDE), "permutations": 16}, ["permutations"], "have 20,400 options"),
    ({"assets": {"a": {"type": "image"}}}, ["assets"], "not supported"),
    ({"stream": True}, ["stream"], "not supported"),
    ({"state": "x" * 5000}, ["questions", "floats"], "the model takes 4096"),
]


@pytest.mark.parametrize(("changes", "location", "message"), BAD)
async def test_a_bad_body_is_a_422_with_its_place(
    changes: dict[str, Any], location: list[str | int], message: str
) -> None:
    client = decision_client()
    response = await _post(client, changes)
    assert response.status_code == 422, response.text
    assert not client.requests
    body = response.json()
    (fault,) = body["detail"]
    assert fault["loc"] == ["body", *location]
    assert message in fault["msg"] == body["error"]["message"]
    assert response.headers["x-typesafe-request-id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("name", ["a.b", "item[0]", ""])
async def test_a_place_has_names_as_they_are(name: str) -> None:
    long = {"type": "choice", "criteria": {name + "x" * 300: None, "a": None}}
    for question, inner in (
        ({"type": "box"}, []),
        ({"type": "noul"}, []),
        ({**CHOICE, "criteria": {"a.[0]": 1}}, ["criteria", "a.[0]"]),
        (long, ["criteria", name + "x" * 300]),
        ({**NOUL, "instructions": "x" * 5000}, []),
    ):
        response = await _post(decision_client(), {"questions": {name: question}})
        assert response.json()["detail"][0]["loc"] == ["body", "questions", name, *inner]


async def test_images_as_parts_are_refused() -> None:
    async with http(make_app(decision_client())) as api:
        response = await api.post(URL, files={"request": (None, b"{}", "application/json"), "asset-0": b"PNG"})
    assert response.status_code == 422
    assert "send the fields as JSON" in response.json()["error"]["message"]


async def test_a_model_that_does_not_fit_is_never_a_5xx() -> None:
    response = await _post(pooling_client(), {})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "model_not_suited")
    unknown = await _post(decision_client(), {"model": "jev-latest"})
    assert (unknown.status_code, unknown.json()["error"]["code"], "detail" in unknown.json()) == (
        404,
        "model_not_found",
        False,
    )


async def test_fields_without_effect_are_listed() -> None:
    questions = {"a": {**NOUL, "unknown": 1, "criteria": {"maybe": "x"}}}
    listed = (await _post(decision_client(), {"questions": questions, "user": "u"})).headers["x-ignored-parameters"]
    assert {*listed.split(", ")} == {"questions.a.unknown", "questions.a.criteria.maybe", "user"}


async def test_a_state_beyond_the_context_is_named() -> None:
    response = await _post(decision_client(), {"state": "x " * 50_000})
    assert response.status_code == 422
    assert (response.json()["error"]["param"], response.json()["error"]["code"]) == ("state", "context_length_exceeded")
    assert response.json()["detail"][0]["loc"] == ["body", "state"]
