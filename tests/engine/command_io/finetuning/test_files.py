"""What stands in a job's folder, and hyperparameters that are left to us."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from engine.command_io.finetuning.auto import epochs_between_checkpoints, resolve_hyperparameters
from engine.command_io.finetuning.config import TrainingConfig
from engine.command_io.finetuning.events import JobEventLog, parse_events
from engine.command_io.finetuning.items import Passage, TrainingItem, read_rows, write_rows
from engine.command_io.finetuning.job import Hyperparameters, TrainingMethod
from engine.command_io.finetuning.plot import sparkline, write_training_plot
from engine.command_io.finetuning.results import LOSS, REWARD, ResultRow, write_result_rows

pytestmark = pytest.mark.fast
_SVG = "{http://www.w3.org/2000/svg}"


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    items = [TrainingItem([Passage([1, 2, 3], [(1, 3)])], 4), TrainingItem([Passage([1]), Passage([2])])]
    write_rows(tmp_path / "a", items)

    assert read_rows(tmp_path / "a", TrainingItem) == items
    assert read_rows(tmp_path / "missing", TrainingItem) == []


def test_events_go_on_after_a_line_that_a_crash_cut(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    JobEventLog(path).add("first", step=1)
    with path.open("ab") as file:
        file.write(b'{"created_at": 1, "mess')
    JobEventLog(path).add("second", level="warn")

    assert [(event.message, event.level, event.data) for event in parse_events(path.read_bytes())] == [
        ("first", "info", {"step": 1}),
        ("second", "warn", {}),
    ]


def test_results_have_openais_columns(tmp_path: Path) -> None:
    write_result_rows(tmp_path / "r.csv", [ResultRow(1, 2.5, 0.25), ResultRow(2, 1.0, 1.0, 1.5, 0.5)], LOSS)

    assert (tmp_path / "r.csv").read_text() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,2.50000,0.25000,,\n"
        "2,1.00000,1.00000,1.50000,0.50000\n"
    )


def test_results_of_rewards_have_openais_columns(tmp_path: Path) -> None:
    rewards = {"train_mean_reward": 0.25, "completion_tokens_mean": 12.5, "mean_unresponsive_rewards": 0.0}
    write_result_rows(tmp_path / "r.csv", [ResultRow(1, **rewards)], REWARD)

    assert (tmp_path / "r.csv").read_text() == (
        "step,train_mean_reward,full_valid_mean_reward,completion_tokens_mean,mean_unresponsive_rewards\n"
        "1,0.25000,,12.50000,0.00000\n"
    )


def test_few_examples_are_seen_often_enough_to_be_learned() -> None:
    few = resolve_hyperparameters(TrainingMethod.SUPERVISED, Hyperparameters(), 32, 112, width=576)
    many = resolve_hyperparameters(TrainingMethod.SUPERVISED, Hyperparameters(), 20_000, 112, width=576)

    assert (few.batch_size, few.steps_per_epoch, few.n_epochs) == (4, 8, 6)
    assert (few.learning_rate, few.replayed_per_step, few.num_replayed) == (4e-4, 2.0, 96)
    assert (many.batch_size, many.n_epochs) == (32, 3)
    assert many.learning_rate == pytest.approx(2e-4)
    assert (many.replayed_per_step, many.num_replayed) == (16.0, 4 * 112)


@pytest.mark.parametrize(
    ("num_items", "num_answers", "chosen"),
    [
        (12, 12, (2, 30, 180, 1e-3)),
        (20, 20, (2, 24, 240, 1e-3)),
        (32, 17, (2, 15, 240, 1e-3)),
        (63, 63, (2, 8, 256, 1e-3)),
        (12, 6, (4, 10, 30, 4e-4)),  # two lines for each answer
        (32, 2, (4, 6, 48, 4e-4)),  # one fact, said in two ways
        (64, 64, (4, 3, 48, 4e-4)),  # not a small file
    ],
)
def test_different_answers_of_a_small_file_are_seen_more_often(
    num_items: int, num_answers: int, chosen: tuple[int, int, int, float]
) -> None:
    found = resolve_hyperparameters(
        TrainingMethod.SUPERVISED, Hyperparameters(), num_items, 112, num_answers, width=576
    )

    assert (found.batch_size, found.n_epochs, found.num_steps, found.learning_rate) == chosen
    assert found.replayed_per_step == found.batch_size / 2


@pytest.mark.parametrize(
    ("width", "num_answers", "rate"),
    [(64, 12, 1e-3), (576, 12, 1e-3), (896, 12, 3.3e-4), (1536, 12, 2e-4), (1536, 2, 4e-4)],
)
def test_a_small_file_of_different_answers_takes_a_lower_rate_on_wider_models(
    width: int, num_answers: int, rate: float
) -> None:
    found = resolve_hyperparameters(TrainingMethod.SUPERVISED, Hyperparameters(), 12, 112, num_answers, width=width)

    assert found.learning_rate == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(("given", "n_epochs", "between"), [(None, 3, 1), (None, 20, 2), (None, 11, 2), (20, 20, 1)])
def test_epochs_that_were_not_asked_for_make_about_ten_checkpoints(
    given: int | None, n_epochs: int, between: int
) -> None:
    assert epochs_between_checkpoints(Hyperparameters(n_epochs=given), n_epochs) == between


def test_what_is_given_is_not_chosen() -> None:
    given = Hyperparameters(
        n_epochs=7, batch_size=3, learning_rate_multiplier=2.0, beta=0.5, rpo_alpha=0.0, lora_rank=4, replay=0.0
    )
    found = resolve_hyperparameters(TrainingMethod.DPO, given, 9, 112, width=576)

    assert (found.n_epochs, found.batch_size, found.num_steps) == (7, 3, 21)
    assert (found.learning_rate, found.beta, found.rpo_alpha) == (1e-3, 0.5, 0.0)
    assert (found.rank, found.alpha, found.num_replayed) == (4, 8.0, 0)


def test_nothing_is_replayed_without_questions() -> None:
    found = resolve_hyperparameters(TrainingMethod.SUPERVISED, Hyperparameters(), 32, 0, width=576)

    assert (found.replayed_per_step, found.num_replayed) == (0.0, 0)


def test_a_sparkline_has_a_bar_for_each_value_up_to_its_width() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline([float(value) for value in range(500)])) == 60


def test_losses_are_drawn(tmp_path: Path) -> None:
    results = [ResultRow(1, 2.5, 0.25), ResultRow(2, 1.0, 1.0, 1.5, 0.5), ResultRow(3, 0.5, 1.0)]
    write_training_plot(tmp_path / "loss.svg", results, LOSS)

    root = ElementTree.fromstring((tmp_path / "loss.svg").read_text())
    steps, _, validation = _lines(root)
    points = [tuple(map(float, point.split(","))) for point in steps.split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # downward: the loss falls
    assert points[1][0] == float(validation.split(",")[0])
    words = [each.text for each in root.iter(f"{_SVG}text")]
    assert {"0", "2.5", "step", "loss in training", "loss on the validation file"} <= {*words}


def test_rewards_below_zero_and_steps_without_one_are_drawn(tmp_path: Path) -> None:
    rows = [ResultRow(1), ResultRow(2, train_mean_reward=-0.5), ResultRow(3, train_mean_reward=0.75)]
    write_training_plot(tmp_path / "reward.svg", rows, REWARD)

    root = ElementTree.fromstring((tmp_path / "reward.svg").read_text())
    heights = [float(point.split(",")[1]) for point in next(_lines(root)).split()]
    assert len(heights) == 2
    assert all(0 < height < 450 for height in heights)


@pytest.mark.parametrize("rows", [[], [ResultRow(1, 0.0)], [ResultRow(7, 1e-9), ResultRow(8, 1e9)]])
def test_a_plot_of_anything_is_a_picture(tmp_path: Path, rows: list[ResultRow]) -> None:
    write_training_plot(tmp_path / "loss.svg", rows, LOSS)

    text = (tmp_path / "loss.svg").read_text()
    assert ElementTree.fromstring(text).tag == f"{_SVG}svg"
    assert "nan" not in text
    assert "inf" not in text


def _lines(root: ElementTree.Element) -> Iterator[str]:
    """The points of each curve."""
    return (each.get("points", "") for each in root.iter(f"{_SVG}polyline") if each.get("fill"))


def test_the_command_leaves_the_length_of_examples_to_the_model() -> None:
    assert TrainingConfig(out="adapter").hyperparameters.max_length is None
    assert TrainingConfig(out="adapter", max_length=64).hyperparameters.max_length == 64
