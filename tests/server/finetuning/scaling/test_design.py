"""The jobs of a curve: parts of the file that share no line, and one size that varies."""

import codecs
import json

import pytest

from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, Scaling, TrainingMethod
from engine.config import EngineConfig
from engine.errors import OptionError
from server.finetuning.scaling.design import (
    Chosen,
    check_examples,
    check_sizes,
    count_jobs,
    curve_jobs,
    hold_out,
    work_of,
)

CHOSEN = Chosen(n_epochs=4, batch_size=8, learning_rate=3e-4, lora_rank=16)


def whole(lora_alpha: float | None = None) -> FinetuningJob:
    return FinetuningJob(
        engine=EngineConfig(model="m"),
        method=TrainingMethod.SUPERVISED,
        hyperparameters=Hyperparameters(lora_alpha=lora_alpha),
        seed=5,
    )


def test_parts_of_the_file_share_no_example_and_are_trained_like_the_whole() -> None:
    jobs = curve_jobs(Scaling.DATA, whole(), CHOSEN, 103)
    assert [(each.name, each.size) for each in jobs] == [
        *(("quarter-1", 25), ("quarter-2", 25), ("quarter-3", 25), ("quarter-4", 25)),
        *(("half-1", 51), ("half-2", 51)),
    ]
    for parts in (jobs[:4], jobs[4:]):
        indices = [index for each in parts for index in each.examples]
        assert len(set(indices)) == len(indices) == sum(each.size for each in parts)
        assert set(indices) <= set(range(103))
    for each in jobs:
        given = each.job.hyperparameters
        assert (given.n_epochs, given.batch_size, given.lora_rank, each.job.seed) == (4, 8, 16, 5)
        assert each.job.probe is not None
        assert each.job.probe.learning_rate == 3e-4


def test_ranks_keep_the_ratio_of_alpha_and_repeat_with_other_seeds() -> None:
    jobs = curve_jobs(Scaling.RANK, whole(lora_alpha=8.0), CHOSEN, 20)
    shapes = [(each.job.hyperparameters.lora_rank, each.job.hyperparameters.lora_alpha, each.job.seed) for each in jobs]
    assert shapes == [(4, 2.0, 5), (4, 2.0, 6), (8, 4.0, 5), (8, 4.0, 6), (16, 8.0, 6)]
    assert all(list(each.examples) == list(range(20)) for each in jobs)


def test_epochs_repeat_with_other_seeds() -> None:
    jobs = curve_jobs(Scaling.EPOCHS, whole(), CHOSEN, 20)
    assert [(each.job.hyperparameters.n_epochs, each.job.seed - 5) for each in jobs] == [
        *((1, 0), (1, 1), (1, 2), (1, 3)),
        *((2, 0), (2, 1)),
    ]


@pytest.mark.parametrize(
    ("kind", "count", "work"), [(Scaling.DATA, 7, 3), (Scaling.EPOCHS, 7, 3), (Scaling.RANK, 6, 6)]
)
def test_the_work_of_all_jobs_is_known_before(kind: Scaling, count: int, work: float) -> None:
    assert (count_jobs(kind), work_of(kind)) == (count, work)


def _lines(count: int) -> bytes:
    return b"".join(
        json.dumps({"prompt": str(number), "completion": "x"}).encode() + b"\n\n" for number in range(count)
    )


def test_a_tenth_of_the_lines_is_held_out_and_not_trained_on() -> None:
    train, valid = hold_out(_lines(300), Scaling.DATA, TrainingMethod.SUPERVISED, seed=1)
    train_lines, valid_lines = (list(filter(None, each.splitlines())) for each in (train, valid))
    assert (len(train_lines), len(valid_lines)) == (270, 30)
    assert {*train_lines, *valid_lines} == {line for line in _lines(300).splitlines() if line}
    assert hold_out(_lines(300), Scaling.DATA, TrainingMethod.SUPERVISED, seed=1) == (train, valid)
    assert hold_out(_lines(300), Scaling.DATA, TrainingMethod.SUPERVISED, seed=2)[1] != valid


def test_lines_keep_their_numbers_and_a_byte_order_mark_is_removed() -> None:
    file = codecs.BOM_UTF8 + _lines(60)
    every = _lines(60).split(b"\n")
    train, valid = (each.split(b"\n") for each in hold_out(file, Scaling.DATA, TrainingMethod.SUPERVISED, seed=1))
    assert [one or other for one, other in zip(train, valid, strict=True)] == every


@pytest.mark.parametrize(("kind", "least"), [(Scaling.DATA, 50), (Scaling.RANK, 20)])
def test_a_file_with_too_few_lines_is_refused_with_the_least_number(kind: Scaling, least: int) -> None:
    hold_out(_lines(least), kind, TrainingMethod.SUPERVISED, seed=0)
    with pytest.raises(
        OptionError, match=rf"--scaling {kind} needs at least {least} lines, .* has {least - 1}; add lines"
    ):
        hold_out(_lines(least - 1), kind, TrainingMethod.SUPERVISED, seed=0)


def test_plain_text_needs_a_validation_file() -> None:
    with pytest.raises(OptionError, match="the file is plain text; give a --validation file"):
        hold_out(b"Once upon a time\n" * 100, Scaling.DATA, TrainingMethod.PRETRAINING, seed=0)


def test_quarters_of_too_few_examples_are_refused() -> None:
    check_examples(Scaling.DATA, 40)
    check_examples(Scaling.RANK, 12)
    with pytest.raises(OptionError, match=r"it needs 40, and the training file has 39 examples .*; add lines"):
        check_examples(Scaling.DATA, 39)


@pytest.mark.parametrize(
    ("kind", "given", "start", "message"),
    [
        (Scaling.RANK, Hyperparameters(lora_rank=3), None, "and it is 3; give --lora-rank 4 or more"),
        (Scaling.RANK, Hyperparameters(), "folder", "--start has the rank of its adapter"),
        (Scaling.EPOCHS, Hyperparameters(), None, "and it is not given; give --n-epochs 4 or more"),
        (Scaling.EPOCHS, Hyperparameters(n_epochs=3), None, "and it is 3; give --n-epochs 4 or more"),
    ],
)
def test_a_size_without_a_quarter_is_refused(
    kind: Scaling, given: Hyperparameters, start: str | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_sizes(kind, TrainingMethod.SUPERVISED, given, start)
    check_sizes(kind, TrainingMethod.SUPERVISED, Hyperparameters(lora_rank=4, n_epochs=4), None)
