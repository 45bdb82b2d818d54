"""Rewards of samples: by each type of grader, and for samples that cannot be graded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.graders.definitions import Grader
from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault
from engine.command_io.finetuning.graders.grading import (
    Grade,
    Grading,
    ScoreAnswer,
    ScoreQuestion,
    grade_all,
    read_score,
)
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.graders.sample import Sample

pytestmark = pytest.mark.fast


def _check(operation: str, text: str = "{{sample.output_text}}", reference: str = "{{item.answer}}") -> dict[str, Any]:
    return {"type": "string_check", "operation": operation, "input": text, "reference": reference}


def _judge(text: str = "{{sample.output_text}}", **more: Any) -> dict[str, Any]:
    return {"type": "score_model", "model": "tiny", "input": [{"role": "user", "content": text}], **more}


def _several(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "graders": graders, "calculate_output": formula}


def _never(_: ScoreQuestion) -> ScoreAnswer:
    raise AssertionError("nothing is to be asked")


def _grade(
    grader: Grader, item: Mapping[str, Any], sample: Sample, ask: Callable[[ScoreQuestion], ScoreAnswer]
) -> Grade:
    grading = Grading(grader, item, sample)
    return grading.grade({path: ask(question) for path, question in grading.questions.items()})


def _reward(body: dict[str, Any], text: str, item: dict[str, Any] | None = None) -> float:
    found = _grade(parse_grader(body, "g"), item or {"answer": "Paris"}, Sample(text), _never)
    assert found.faults == []
    return found.reward


@pytest.mark.parametrize(
    ("operation", "rewards"),
    [("eq", [1, 0, 0, 0]), ("ne", [0, 1, 1, 1]), ("like", [1, 1, 0, 0]), ("ilike", [1, 1, 1, 0])],
)
def test_a_string_check_gives_one_or_nothing(operation: str, rewards: list[float]) -> None:
    texts = ["Paris", "It is Paris.", "it is PARIS", "Rome"]
    assert [_reward(_check(operation), text) for text in texts] == rewards


def test_text_similarity_gives_a_share() -> None:
    body = {
        "type": "text_similarity",
        "evaluation_metric": "rouge_1",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
    }
    assert _reward(body, "the cat", {"answer": "the dog"}) == 0.5


def test_a_formula_combines_rewards_which_are_told_apart() -> None:
    body = _several("0.5 * first + 0.25 * second", first=_check("eq"), second=_check("like"))
    found = _grade(parse_grader(body, "g"), {"answer": "Paris"}, Sample("Paris!"), _never)
    assert found.reward == 0.25
    assert found.sub_rewards == {"first": 0.0, "second": 1.0}
    assert [(each.key, each.name, each.type) for each in found.parts] == [
        ("first", "first", "string_check"),
        ("second", "second", "string_check"),
    ]
    assert (found.whole.name, found.whole.type) == ("multi", "multi")


def test_rewards_are_not_clipped() -> None:
    assert _reward(_several("10 * a - 20", a=_check("eq")), "Paris") == -10.0


@pytest.mark.parametrize(
    ("body", "text", "kind"),
    [
        (_check("eq", "{{sample.output_json.x}}"), "x", FaultKind.SAMPLE_PARSE),
        (_check("eq", "{{sample.output_json.x}}"), "{}", FaultKind.INVALID_VARIABLE),
        (_check("eq", reference="{{item.other}}"), "x", FaultKind.INVALID_VARIABLE),
        (_check("eq", "{{sample.output_tools[0].id}}"), "x", FaultKind.INVALID_VARIABLE),
        (_several("1 / a", a=_check("eq")), "Rome", FaultKind.FORMULA),
        (_several("exp(1000 * (1 - a))", a=_check("eq")), "Rome", FaultKind.FORMULA),
        (_judge("{{sample.output_json.x}}"), "x", FaultKind.SAMPLE_PARSE),
    ],
)
def test_a_sample_that_cannot_be_graded_has_no_reward_and_a_fault(
    body: dict[str, Any], text: str, kind: FaultKind
) -> None:
    found = _grade(parse_grader(body, "g"), {"answer": "Paris"}, Sample(text), _never)
    assert found.reward == 0.0
    assert [fault.kind for fault in found.faults] == [kind]


def test_a_part_that_cannot_be_graded_counts_nothing_and_the_others_do() -> None:
    body = _several("0.5 * a + 0.5 * b", a=_check("eq", "{{sample.output_json.x}}"), b=_check("like"))
    found = _grade(parse_grader(body, "g"), {"answer": "Paris"}, Sample("Paris"), _never)
    assert found.reward == 0.5
    assert (found.parts[0].fault is not None, found.parts[1].fault, found.whole.fault) == (True, None, None)


def test_a_model_is_asked_for_a_number() -> None:
    asked: list[ScoreQuestion] = []

    def ask(question: ScoreQuestion) -> ScoreAnswer:
        asked.append(question)
        return ScoreAnswer("7.5")

    grader = parse_grader(_judge("Rate {{item.answer}}: {{sample.output_text}}", range=[0, 10]), "g")
    found = _grade(grader, {"answer": "A"}, Sample("B"), ask)
    assert (found.reward, found.faults) == (7.5, [])
    assert asked[0].messages == [{"role": "user", "content": "Rate A: B"}]
    assert (asked[0].model, asked[0].low, asked[0].high) == ("tiny", 0.0, 10.0)


@pytest.mark.parametrize(
    ("answer", "reward", "kind"),
    [
        (ScoreAnswer("20"), 1.0, None),
        (ScoreAnswer("-3"), 0.0, None),
        (ScoreAnswer("good"), 0.0, FaultKind.MODEL_PARSE),
        (ScoreAnswer(""), 0.0, FaultKind.MODEL_PARSE),
        (ScoreAnswer(fault=GradingFault(FaultKind.MODEL_SERVER, "gone")), 0.0, FaultKind.MODEL_SERVER),
    ],
)
def test_what_a_model_answers_is_a_number_within_the_range(
    answer: ScoreAnswer, reward: float, kind: FaultKind | None
) -> None:
    found = _grade(parse_grader(_judge(), "g"), {}, Sample("x"), lambda _: answer)
    assert found.reward == reward
    assert [fault.kind for fault in found.faults] == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0.5", 0.5),
        (" -1 \n", -1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-1", 0.1),
        ("Score: 0.8", 0.8),
        ("The answer deserves 7.", 7.0),
        ('{"steps": [{"description": "2 of 3"}], "result": 0.25}', 0.25),
        ('{"score": 1}', None),
        ('{"result": "1"}', None),
        ('{"result": true}', None),
        ("8/10", None),
        ("between 1 and 2", None),
        ("gpt4", None),
        ("v1.2.3", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("", None),
        ("[1]", 1.0),
    ],
)
def test_a_number_is_read_where_there_is_one(text: str, score: float | None) -> None:
    assert read_score(text) == score


def test_all_questions_are_asked_at_once() -> None:
    calls: list[list[str]] = []

    def ask_all(questions: Sequence[ScoreQuestion]) -> list[ScoreAnswer]:
        calls.append([question.messages[0]["content"] for question in questions])
        return [ScoreAnswer(question.messages[0]["content"][-1]) for question in questions]

    body = _several("a + b", a=_judge("a{{sample.output_json}}", range=[0, 9]), b=_judge("b{{item.n}}", range=[0, 9]))
    grader = parse_grader(body, "g")
    found = grade_all(grader, [({"n": 1}, Sample("2")), ({"n": 3}, Sample("no")), ({}, Sample("4"))], ask_all)
    assert calls == [["a2", "b1", "b3", "a4"]]
    assert [each.reward for each in found] == [3.0, 3.0, 4.0]
    assert grade_all(parse_grader(_check("eq"), "g"), [({"answer": "x"}, Sample("x"))], ask_all)[0].reward == 1.0
    assert len(calls) == 1


_FIELDS = st.sampled_from(
    [
        "{{sample.output_text}}",
        "{{sample.output_json.a[0]}}",
        "{{sample.output_json}}",
        "{{item.a.b}}",
        "{{item.c}}",
        "x",
    ]
)
_CHECKS = st.builds(_check, st.sampled_from(["eq", "ne", "like", "ilike"]), _FIELDS, _FIELDS)
_ALIKE = st.builds(
    lambda metric, text, reference: {
        "type": "text_similarity",
        "evaluation_metric": metric,
        "input": text,
        "reference": reference,
    },
    st.sampled_from(["bleu", "gleu", "rouge_1", "rouge_5"]),
    _FIELDS,
    _FIELDS,
)
_SINGLE = st.one_of(_CHECKS, _ALIKE, st.builds(_judge, _FIELDS))
_FORMULAS = st.sampled_from(["a + b", "a / b", "log(a) - exp(999 * b)", "a ^ (-b)", "min(a, b) * 2 - sqrt(a - b)"])
_GRADERS = st.one_of(_SINGLE, st.builds(lambda formula, a, b: _several(formula, a=a, b=b), _FORMULAS, _SINGLE, _SINGLE))
_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(
    _GRADERS, st.dictionaries(st.sampled_from("abc"), _JSON, max_size=3), st.text() | st.just('{"a": [1]}'), st.text()
)
def test_no_sample_item_or_answer_raises(body: dict[str, Any], item: dict[str, Any], text: str, answer: str) -> None:
    grader = parse_grader(body, "g")
    found = _grade(grader, item, Sample(text), lambda _: ScoreAnswer(answer))
    assert found.reward == found.reward
    assert abs(found.reward) < float("inf")
    assert found == _grade(grader, item, Sample(text), lambda _: ScoreAnswer(answer))
    assert found.whole.fault is None or found.reward == 0.0
