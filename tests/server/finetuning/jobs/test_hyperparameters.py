"""Hyperparameters of a request: given ones reach the trainer as they are, whatever place they stand at."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.auto import resolve_hyperparameters
from engine.command_io.finetuning.data_preparation import Dedup, PreparationOptions
from engine.command_io.finetuning.job import Hyperparameters, Order, Pacing, Schedule, TrainingMethod
from engine.errors import InvalidRequest
from server.finetuning.adapter_files import AdapterShape
from server.finetuning.jobs.hyperparameters import hyperparameters_of
from server.schemas.base import validate
from server.schemas.finetuning import FinetuningRequest, GivenHyperparameters
from server.schemas.finetuning_answers import HyperparametersObject

pytestmark = pytest.mark.fast

_WHOLE = st.integers(min_value=1, max_value=64)
_POSITIVE = st.floats(min_value=1e-3, max_value=2)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "n_epochs": _WHOLE,
    "batch_size": _WHOLE,
    "learning_rate_multiplier": _POSITIVE,
    "lora_rank": _WHOLE,
    "lora_alpha": _POSITIVE,
    "target_modules": st.lists(st.sampled_from(["q_proj", "up_proj"]), unique=True),
    "max_length": st.integers(min_value=8, max_value=200),
    "warmup_ratio": st.floats(min_value=0, max_value=1),
    "schedule": st.sampled_from([each.value for each in Schedule]),
    "weight_decay": st.floats(min_value=0, max_value=1),
    "max_grad_norm": _POSITIVE,
    "replay": st.floats(min_value=0, max_value=10),
    "order": st.sampled_from([each.value for each in Order if each is not Order.NONE]),
    "early_stopping": _WHOLE,
}
GIVEN = st.fixed_dictionaries({}, optional=VALUES)


def _read(
    body: dict[str, Any],
    *,
    max_rank: int = 64,
    max_length: int | None = 2048,
    layers: Sequence[str] = (),
    start: AdapterShape | None = None,
) -> tuple[TrainingMethod, Hyperparameters]:
    request = validate(
        FinetuningRequest, {"model": "m", "training_file": "file-a", "validation_file": "file-b", **body}
    )
    return hyperparameters_of(request, max_rank=max_rank, max_length=max_length, layers=layers, start=start)


def _reinforcement(settings: dict[str, Any]) -> dict[str, Any]:
    return {"method": {"type": "reinforcement", "reinforcement": {"hyperparameters": settings}}}


def _supervised(settings: dict[str, Any]) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": settings}}}


@given(GIVEN)
def test_what_is_given_reaches_the_trainer(settings: dict[str, Any]) -> None:
    method, found = _read(_supervised(settings))
    assert method is TrainingMethod.SUPERVISED
    assert found == msgspec.convert(settings, Hyperparameters)


@given(GIVEN, st.sets(st.sampled_from([*VALUES])))
def test_both_places_make_one(settings: dict[str, Any], moved: set[str]) -> None:
    old = {name: value for name, value in settings.items() if name in moved}
    new = {name: value for name, value in settings.items() if name not in moved}
    assert _read({**_supervised(new), "hyperparameters": old}) == _read(_supervised(settings))
    assert _read({**_supervised(settings), "hyperparameters": old}) == _read(_supervised(settings))


@given(GIVEN, st.sampled_from([*VALUES]), st.sampled_from(["auto", None]))
def test_auto_is_as_if_it_were_left_out(settings: dict[str, Any], name: str, auto: str | None) -> None:
    others = {each: value for each, value in settings.items() if each != name}
    assert _read(_supervised({**others, name: auto})) == _read(_supervised(others))


@pytest.mark.parametrize("names", ["q_proj", [""], [3], {}, [None]])
def test_names_that_are_none_are_refused(names: Any) -> None:
    with pytest.raises(InvalidRequest, match='it must be "auto" or a list of names'):
        _read(_supervised({"target_modules": names}))


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from([*VALUES, "beta", "pacing"]), _ANY)
def test_any_value_is_taken_or_refused_with_its_path(name: str, value: Any) -> None:
    found = _read_or_refuse(_supervised({name: value}))
    if isinstance(found, InvalidRequest):
        assert found.param is not None
        assert found.param.startswith(f"method.supervised.hyperparameters.{name}")
        assert "; " in str(found)
    else:
        assert value in (None, "auto") or getattr(found, name) == value


def _read_or_refuse(body: dict[str, Any]) -> Hyperparameters | InvalidRequest:
    try:
        return _read(body)[1]
    except InvalidRequest as error:
        return error


@given(st.sampled_from([*TrainingMethod]), st.integers(min_value=1, max_value=128))
def test_the_rank_that_is_trained_can_be_served(method: TrainingMethod, max_rank: int) -> None:
    body = {"method": {"type": method.value}}
    found_method, found = _read(body, max_rank=max_rank)
    assert found_method is method
    assert resolve_hyperparameters(method, found, 100, 0, width=576).rank <= max_rank


@pytest.mark.parametrize("method", [*TrainingMethod])
def test_defaults_are_the_trainers_own(method: TrainingMethod) -> None:
    assert _read({"method": {"type": method.value}}) == (method, Hyperparameters())


def test_every_hyperparameter_of_the_trainer_can_be_given_and_is_shown() -> None:
    every = {*Hyperparameters.__struct_fields__}
    assert every == {*GivenHyperparameters.model_fields} - {"reasoning_effort"}
    assert every == {*HyperparametersObject.__struct_fields__}


def test_examples_are_cut_to_what_the_model_takes() -> None:
    assert _read({}, max_length=256)[1].max_length == 256
    assert _read({"hyperparameters": {"max_length": 100}}, max_length=256)[1].max_length == 100
    for known in (1024, 4096, None):
        assert _read({}, max_length=known)[1].max_length is None


def test_no_method_is_supervised() -> None:
    assert _read({}) == (TrainingMethod.SUPERVISED, Hyperparameters())


def test_an_adapter_to_go_on_with_decides_the_shape() -> None:
    start = AdapterShape(rank=4, alpha=12.0)
    _, found = _read(_supervised({"n_epochs": 1}), start=start)
    assert (found.lora_rank, found.lora_alpha) == (4, 12.0)
    assert _read(_supervised({"n_epochs": 1, "lora_rank": 4, "lora_alpha": 12}), start=start)[1] == found
    with pytest.raises(InvalidRequest, match="the adapter to continue has 12"):
        _read(_supervised({"lora_alpha": 8}), start=start)


def test_layers_that_the_model_does_not_have_are_refused_with_those_that_it_has() -> None:
    layers = ["down_proj", "q_proj", "v_proj"]
    assert _read(_supervised({"target_modules": ["q_proj"]}), layers=layers)[1].target_modules == ["q_proj"]
    with pytest.raises(
        InvalidRequest, match=r"target_modules has 'qproj'; the layers .* are down_proj, q_proj, v_proj: name some"
    ) as caught:
        _read(_supervised({"target_modules": ["q_proj", "qproj"]}), layers=layers)
    assert caught.value.param == "method.supervised.hyperparameters.target_modules"
    assert _read(_supervised({"target_modules": ["any"]}))[1].target_modules == ["any"]  # of a model not loaded yet


def test_layers_of_an_adapter_to_go_on_with_must_be_trained_on() -> None:
    start = AdapterShape(rank=4, alpha=8.0, layers=frozenset({"q_proj", "v_proj"}))
    assert _read(_supervised({"target_modules": ["v_proj", "k_proj", "q_proj"]}), start=start)
    assert _read(_supervised({}), start=start)
    with pytest.raises(InvalidRequest, match="target_modules lacks 'v_proj', which the adapter to continue has"):
        _read(_supervised({"target_modules": ["q_proj"]}), start=start)


@pytest.mark.parametrize("pacing", [Pacing.LINEAR, Pacing.SQRT])
def test_pacing_needs_an_order(pacing: Pacing) -> None:
    assert _read(_supervised({"pacing": pacing.value, "order": "length"}))[1].pacing is pacing
    with pytest.raises(InvalidRequest, match=f"pacing is '{pacing.value}'; it needs an order"):
        _read(_supervised({"pacing": pacing.value}))


def test_answers_leave_room_for_a_prompt() -> None:
    assert _read(_reinforcement({"max_completion_tokens": 2047}))[1].max_completion_tokens == 2047
    assert _read(_reinforcement({"max_completion_tokens": 2048}), max_length=None)[1].max_completion_tokens == 2048
    for tokens in (2048, 2049):
        with pytest.raises(
            InvalidRequest, match=f"max_completion_tokens is {tokens}; this model takes 2048 tokens.*at most 2047"
        ) as caught:
            _read(_reinforcement({"max_completion_tokens": tokens}))
        assert caught.value.param == "method.reinforcement.hyperparameters.max_completion_tokens"


def test_examples_may_be_as_long_as_the_model_takes() -> None:
    assert _read(_supervised({"max_length": 2048}))[1].max_length == 2048
    with pytest.raises(InvalidRequest, match="max_length is 2049; this model takes 2048 tokens"):
        _read(_supervised({"max_length": 2049}))


@pytest.mark.parametrize("method", [*TrainingMethod])
def test_an_unknown_hyperparameter_is_refused_with_those_of_its_method(method: TrainingMethod) -> None:
    body = {"method": {"type": method.value, method.value: {"hyperparameters": {"epochs": 3}}}}
    with pytest.raises(InvalidRequest, match=rf"epochs is not a hyperparameter .*; {method} has n_epochs, ") as caught:
        _read(body)
    listed = {*str(caught.value).partition(" has ")[2].split(", ")}
    assert ({"beta", "rpo_alpha"} <= listed) is (method is TrainingMethod.DPO)
    is_reinforcement = method is TrainingMethod.REINFORCEMENT
    assert ({"group_size", "max_completion_tokens", "reasoning_effort"} <= listed) is is_reinforcement
    assert ("max_length" in listed) is not is_reinforcement
    for name in ("beta", "group_size", "max_length", "reasoning_effort"):
        assert name in listed or _is_refused(method, name)


def _is_refused(method: TrainingMethod, name: str) -> bool:
    value = {"reasoning_effort": "low", "group_size": 4, "beta": 0.1, "max_length": 64}[name]
    found = _read_or_refuse({"method": {"type": method.value, method.value: {"hyperparameters": {name: value}}}})
    return isinstance(found, InvalidRequest)


JUDGE = {"type": "string_check", "name": "x", "operation": "eq", "input": "{{sample.output_text}}", "reference": "x"}
SCORED = {
    "type": "score_model",
    "name": "good",
    "model": "tiny",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


@pytest.mark.parametrize("method", [*TrainingMethod])
def test_data_is_prepared_in_every_method(method: TrainingMethod) -> None:
    steps = {"dedup": "exact", "quality": ["gopher"], "max_removed": 0.2, "ngram": "auto", "mask_pii": True}
    settings = {"hyperparameters": {"data_preparation": steps}}
    options = _read({"method": {"type": method.value, method.value: settings}})[1].data_preparation
    assert options == PreparationOptions(dedup=Dedup.EXACT, quality=("gopher",), max_removed=0.2, mask_pii=True)


def test_scores_are_bounded_by_numbers_and_percentiles() -> None:
    steps = {"max_perplexity": 20, "min_ifd": "p20", "max_ifd": "auto", "judge": JUDGE, "min_score": 1}
    options = _read(_supervised({"data_preparation": steps}))[1].data_preparation
    assert options == PreparationOptions(max_perplexity="20", min_ifd="p20", judge=JUDGE, min_score=1.0)


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        ("reinforcement", {"max_perplexity": "p95"}, "lines for reinforcement have no answers"),
        ("reinforcement", {"judge": JUDGE, "min_score": 1}, "lines for reinforcement have no answers"),
        ("pretraining", {"max_ifd": 1}, "lines for pretraining have no instructions"),
    ],
)
def test_scores_that_no_line_of_a_method_has_are_refused(method: str, steps: dict[str, Any], message: str) -> None:
    given = {"hyperparameters": {"data_preparation": steps}}
    found = _read_or_refuse({"method": {"type": method, method: given}})
    assert isinstance(found, InvalidRequest)
    assert message in str(found)


def test_data_is_not_prepared_by_default() -> None:
    assert _read(_supervised({"data_preparation": "auto"})) == _read(_supervised({}))
    assert {"const": "auto"} in FinetuningRequest.model_json_schema()["$defs"]["GivenHyperparameters"]["properties"][
        "data_preparation"
    ]["anyOf"]


@pytest.mark.parametrize(
    ("steps", "param", "message"),
    [
        ({"dedup": "fuzzy"}, "dedup", 'it must be "auto" or one of near, exact, none'),
        ({"max_removed": 2}, "max_removed", "of at least 0 and at most 1"),
        ({"quality": ["best"]}, "quality", "has 'best', which is not a rule; there are the groups gopher, c4"),
        ({"max_perplexity": "p100"}, "max_perplexity", "is 'p100'; it must be a number above 0, or a percentile"),
        ({"max_perplexity": 0.5}, "max_perplexity", "a perplexity is at least 1, so give a larger one"),
        ({"min_ifd": "p50", "max_ifd": "p50"}, "min_ifd", "is p50, not below max_ifd, p50, so no line is between them"),
        ({"max_perplexity": -1}, "max_perplexity", "is '-1'; it must be a number above 0"),
        ({"max_ifd": [1]}, "max_ifd", 'it must be "auto", a number above 0, or a percentile such as "p95"'),
        ({"judge": JUDGE}, "judge", "and min_score, the least score by it, need each other"),
        ({"min_score": 1}, "judge", "and min_score, the least score by it, need each other"),
        ({"judge": {"type": "best"}, "min_score": 1}, "judge.type", "best"),
        ({"judge": {**JUDGE, "input": "x"}, "min_score": 1}, "judge", "reads nothing of the sample"),
        ({"judge": SCORED, "min_score": 2}, "min_score", "judge scores from 0 to 1, so no line would pass"),
        ({"judge": SCORED, "min_score": -0.5}, "min_score", "is -0.5; method"),
        ({"split": 1}, "split", "is not a step; there are dedup, dedup_threshold, decontaminate_against, ngram"),
    ],
)
def test_unknown_steps_and_values_are_refused(steps: dict[str, Any], param: str, message: str) -> None:
    found = _read_or_refuse(_supervised({"data_preparation": steps}))
    assert isinstance(found, InvalidRequest)
    assert found.param == f"method.supervised.hyperparameters.data_preparation.{param}"
    assert message in str(found)
