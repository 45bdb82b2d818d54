"""Graders as clients write them: what each becomes, and the field that a refusal names."""

from typing import Any

import pytest
from openai.types.graders import MultiGrader, ScoreModelGrader, StringCheckGrader, TextSimilarityGrader

from engine.command_io.finetuning.graders import similarity
from engine.command_io.finetuning.graders.definitions import (
    Multi,
    ScoreModel,
    ScoreSampling,
    StringCheck,
    StringOperation,
    TextSimilarity,
    item_fields,
    needed_models,
    references,
    sample_fields,
)
from engine.command_io.finetuning.graders.parsing import ignored_fields, parse_grader
from engine.command_io.finetuning.graders.similarity import Metric
from engine.errors import InvalidRequest, UnsupportedParameter

pytestmark = pytest.mark.fast

CHECK = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
ALIKE = {
    "type": "text_similarity",
    "name": "alike",
    "evaluation_metric": "gleu",
    "input": "{{sample.output_json.name}}",
    "reference": "{{item.person.name}}",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "tiny",
    "input": [
        {"role": "developer", "content": "Score from 0 to 10."},
        {
            "role": "user",
            "type": "message",
            "content": [
                {"type": "input_text", "text": "Answer: {{sample.output_text}}"},
                " and {{item.answer}}",
                {"type": "output_text", "text": "."},
            ],
        },
    ],
    "range": [0, 10],
    "sampling_params": {
        "max_completions_tokens": 16,
        "temperature": 0,
        "top_p": 1,
        "seed": 3,
        "reasoning_effort": "low",
    },
}
SEVERAL = {
    "type": "multi",
    "name": "all",
    "graders": {"same": CHECK, "alike": ALIKE, "judge": JUDGE},
    "calculate_output": "same + alike + judge / 10",
}


def _without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def test_the_bodies_here_are_of_the_official_clients_types() -> None:
    for kind, body in ((StringCheckGrader, CHECK), (TextSimilarityGrader, ALIKE), (ScoreModelGrader, JUDGE)):
        kind.model_validate(body, strict=True)
    MultiGrader.model_validate({**SEVERAL, "graders": CHECK}, strict=True)


def test_each_type_is_read() -> None:
    check = parse_grader(CHECK, "grader")
    assert isinstance(check, StringCheck)
    assert (check.name, check.operation, check.type) == ("same", StringOperation.EQ, "string_check")
    alike = parse_grader(ALIKE, "grader")
    assert isinstance(alike, TextSimilarity)
    assert alike.metric is Metric.GLEU
    judge = parse_grader(JUDGE, "grader")
    assert isinstance(judge, ScoreModel)
    assert (judge.model, judge.low, judge.high) == ("tiny", 0.0, 10.0)
    assert judge.sampling == ScoreSampling(16, "low", 3, 0.0, 1.0)
    assert [message.role for message in judge.messages] == ["developer", "user"]


def test_a_score_model_has_defaults_of_its_own() -> None:
    grader = parse_grader(_without(_without(JUDGE, "range"), "sampling_params"), "grader")
    assert isinstance(grader, ScoreModel)
    assert (grader.low, grader.high, grader.sampling) == (0.0, 1.0, ScoreSampling())


def test_what_several_graders_need_is_known() -> None:
    grader = parse_grader(SEVERAL, "grader")
    assert isinstance(grader, Multi)
    assert list(grader.graders) == ["same", "alike", "judge"]
    assert needed_models(grader) == ["tiny"]
    assert item_fields(grader) == {"answer", "person"}
    assert sample_fields(grader) == {"output_text", "output_json"}
    places = {place: reference.text for place, reference in references(grader)}
    assert places["graders.alike.reference"] == "item.person.name"
    assert "graders.judge.input[1].content" in places


def test_one_grader_in_the_place_of_several_is_the_only_one() -> None:
    """OpenAI's clients have no other type for it."""
    body = {**SEVERAL, "graders": CHECK, "calculate_output": "0.5 * same"}
    grader = parse_grader(body, "grader")
    assert isinstance(grader, Multi)
    assert list(grader.graders) == ["same"]
    assert ignored_fields({**body, "graders": {**CHECK, "pass_threshold": 1}}, "grader") == [
        "grader.graders.same.pass_threshold"
    ]


def test_a_name_is_not_needed() -> None:
    """OpenAI's guide has graders without one."""
    graders = {"first": _without(CHECK, "name")}
    grader = parse_grader({"type": "multi", "graders": graders, "calculate_output": "first"}, "grader")
    assert isinstance(grader, Multi)
    assert (grader.name, grader.graders["first"].name) == ("multi", "first")


def test_a_threshold_of_evaluations_has_no_effect_and_is_told() -> None:
    graders = {"same": {**CHECK, "pass_threshold": 0.5}, "alike": ALIKE}
    body = {**SEVERAL, "graders": graders, "calculate_output": "same", "pass_threshold": 1}
    assert parse_grader(body, "g").name == "all"
    assert ignored_fields(body, "g") == ["g.pass_threshold", "g.graders.same.pass_threshold"]
    assert ignored_fields(CHECK, "g") == []


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (None, "g", "must be an object"),
        ([CHECK], "g", "must be an object"),
        ({**CHECK, "reference": "x" * 300_000}, "g", "it may have 262,144"),
        ({}, "g.type", "string_check, text_similarity, score_model, multi"),
        ({"type": []}, "g.type", "must be one of"),
        ({"type": "regex"}, "g.type", "must be one of"),
        ({**CHECK, "operation": "neq"}, "g.operation", "eq, ne, like, ilike"),
        ({**CHECK, "operation": ["eq"]}, "g.operation", "eq, ne, like, ilike"),
        (_without(CHECK, "reference"), "g.reference", "missing"),
        ({**CHECK, "input": 3}, "g.input", "must be a string"),
        ({**CHECK, "input": "{{sample.x}}"}, "g.input", "sample.output_text"),
        ({**CHECK, "name": 3}, "g.name", "must be a string"),
        ({**CHECK, "evaluation_metric": "bleu"}, "g.evaluation_metric", "not known"),
        ({**ALIKE, "evaluation_metric": "rouge"}, "g.evaluation_metric", "must be one of"),
        ({**ALIKE, "evaluation_metric": None}, "g.evaluation_metric", "must be one of"),
        (_without(JUDGE, "model"), "g.model", "missing"),
        ({**JUDGE, "input": []}, "g.input", "1 to 64 messages"),
        ({**JUDGE, "input": "Score it"}, "g.input", "1 to 64 messages"),
        ({**JUDGE, "input": ["Score it"]}, "g.input[0]", "must be a message"),
        ({**JUDGE, "input": [{"role": "tool", "content": ""}]}, "g.input[0].role", "user, assistant"),
        ({**JUDGE, "input": [{"role": "user"}]}, "g.input[0].content", "must be a text"),
        ({**JUDGE, "input": [{"role": "user", "content": [{"type": "x"}]}]}, "g.input[0].content[0].type", "one of"),
        ({**JUDGE, "range": [1, 0]}, "g.range", "below"),
        ({**JUDGE, "range": [0, 1, 2]}, "g.range", "two numbers"),
        ({**JUDGE, "range": [0, True]}, "g.range", "two numbers"),
        ({**JUDGE, "sampling_params": {"top_k": 1}}, "g.sampling_params.top_k", "not known"),
        ({**JUDGE, "sampling_params": {"top_p": 2}}, "g.sampling_params.top_p", "from 0 to 1"),
        ({**JUDGE, "sampling_params": {"seed": 1.5}}, "g.sampling_params.seed", "whole"),
        ({**JUDGE, "sampling_params": {"reasoning_effort": "huge"}}, "g.sampling_params.reasoning_effort", "one of"),
        ({**JUDGE, "sampling_params": {"temperature": 10**400}}, "g.sampling_params.temperature", "from 0 to 2"),
        ({**JUDGE, "sampling_params": {"top_p": 0}}, "g.sampling_params.top_p", "above 0"),
        ({**JUDGE, "range": [0, 10**400]}, "g.range", "two numbers"),
        ({**JUDGE, "range": ["a", 1]}, "g.range", "g.range[0] is 'a'; g.range must be a list of two numbers"),
        ({**JUDGE, "range": [0, None]}, "g.range", "g.range[1] is null; g.range must be a list of two numbers"),
        ({**SEVERAL, "graders": {}}, "g.graders", "is empty; it must be an object of graders by their names"),
        ({**SEVERAL, "graders": [CHECK]}, "g.graders", "graders by their names"),
        ({**SEVERAL, "graders": {"a-b": CHECK}}, "g.graders", "letters, digits"),
        ({**SEVERAL, "graders": {"min": CHECK}}, "g.graders", "name of a function"),
        ({**SEVERAL, "graders": {"x": SEVERAL}}, "g.graders.x", "within another"),
        ({**SEVERAL, "graders": {"x": {**CHECK, "operation": "is"}}}, "g.graders.x.operation", "eq, ne"),
        ({**SEVERAL, "graders": {f"g{i}": CHECK for i in range(33)}}, "g.graders", "it may have 32"),
        ({**SEVERAL, "calculate_output": "same + other"}, "g.calculate_output", "same, alike, judge"),
        (_without(SEVERAL, "calculate_output"), "g.calculate_output", "missing"),
    ],
)
def test_a_faulty_grader_is_refused_by_the_fields_path(body: Any, param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_grader(body, "g")
    assert caught.value.param == param
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"type": "python", "source": "def grade(sample, item): return 1.0"}, "g.type", "client's code"),
        ({"type": "label_model"}, "g.type", "score_model"),
        ({**SEVERAL, "graders": {"x": {"type": "python"}}}, "g.graders.x.type", "client's code"),
        ({**ALIKE, "evaluation_metric": "meteor"}, "g.evaluation_metric", "synonyms"),
        ({**ALIKE, "evaluation_metric": "cosine"}, "g.evaluation_metric", "embeddings"),
        (
            {**JUDGE, "input": [{"role": "user", "content": {"type": "input_image", "image_url": ""}}]},
            "g.input[0].content.type",
            "text parts only",
        ),
    ],
)
def test_what_is_known_and_not_supported_says_so(body: Any, param: str, words: str) -> None:
    with pytest.raises(UnsupportedParameter, match=words) as caught:
        parse_grader(body, "g")
    assert caught.value.param == param


def test_a_measure_without_its_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedParameter, match=r"pip install 'headrace\[graders\]'"):
        parse_grader({**ALIKE, "evaluation_metric": "fuzzy_match"}, "g")
    assert parse_grader(ALIKE, "g")
