"""The load: lengths, prompts and arrival times follow their options and the seed, and nothing else."""

import itertools
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from engine.command_io.lengths import LognormalLength, UniformLength, parse_lengths
from engine.errors import StartupError
from server.loadtest.config import LoadConfig, LoadEndpoint, PromptFormat
from server.loadtest.load import arrival_times
from server.loadtest.workload import Conversation, TextScale, Workload

pytestmark = pytest.mark.fast


def conversations(scale: TextScale = TextScale(), **options: Any) -> list[Conversation]:  # noqa: B008 (frozen)
    return Workload(LoadConfig(**options)).conversations(scale)


def prompts(**options: Any) -> list[list[int]]:
    return [turns[0].prompt for turns in conversations(**options)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "lengths", "mean"),
    [
        ("128", UniformLength(128, 128), 128),
        ("64:512", UniformLength(64, 512), 288),
        ("7:7", UniformLength(7, 7), 7),
        ("lognormal:100:0.5", LognormalLength(100, 0.5, 1600), 113.3),
        ("lognormal:100:0.5:300", LognormalLength(100, 0.5, 300), 113.3),
    ],
)
def test_lengths_are_parsed(text: str, lengths: object, mean: float) -> None:
    parsed = parse_lengths(text, "--input-len")
    assert parsed == lengths
    assert parsed.mean == pytest.approx(mean, abs=0.1)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "5:3", "1:2:3", "x", "lognormal:5", "lognormal:0:1", "lognormal:9:1:8"]
)
def test_wrong_lengths_are_refused(text: str) -> None:
    with pytest.raises(StartupError, match=r"--input-len is .*; it must be a length such as 128"):
        parse_lengths(text, "--input-len")


def test_uniform_lengths_reach_both_ends() -> None:
    rng = random.Random(0)
    drawn = [parse_lengths("3:6", "").draw(rng) for _ in range(200)]
    assert set(drawn) == {3, 4, 5, 6}


def test_lognormal_lengths_have_their_median_and_limit() -> None:
    rng = random.Random(0)
    drawn = [parse_lengths("lognormal:100:1:400", "").draw(rng) for _ in range(4000)]
    assert max(drawn) <= 400
    assert min(drawn) >= 1
    # The limit cuts off the upper 8.3 % of the distribution, so the median falls from 100 to 90.
    assert statistics.median(drawn) == pytest.approx(90, rel=0.05)
    assert statistics.quantiles(drawn, n=10)[0] < 30


def test_token_prompts_have_exact_lengths_and_the_asked_ids() -> None:
    made = conversations(num_prompts=50, input_len="20:30", output_len="5:9", token_id_range="100:110")
    lengths = [len(turns[0].prompt) for turns in made]
    assert (min(lengths), max(lengths)) == (20, 30)
    assert {turns[0].output_len for turns in made} == {5, 6, 7, 8, 9}
    assert {token for turns in made for token in turns[0].prompt} == set(range(100, 110))


def test_prompts_share_nothing_unless_asked() -> None:
    made = prompts(num_prompts=40, input_len="64")
    heads = {tuple(prompt[:8]) for prompt in made}
    assert len(heads) == 40


def test_warm_up_shares_nothing_with_the_measured_prompts() -> None:
    workload = Workload(LoadConfig(num_prompts=4, prefix_len=32, num_warmups=2))
    measured = {tuple(turns[0].prompt[:8]) for turns in workload.conversations(TextScale())}
    warm = {tuple(workload.warm_up(index, TextScale())[0].prompt[:8]) for index in range(2)}
    assert len(warm) == 2
    assert not warm & measured


def test_prefixes_are_shared_in_turn() -> None:
    made = prompts(num_prompts=6, input_len="30", prefix_len=100, num_prefixes=3)
    assert {len(prompt) for prompt in made} == {130}
    assert made[0][:100] == made[3][:100]
    assert made[0][:8] != made[1][:8] != made[2][:8]
    assert len({tuple(prompt[100:]) for prompt in made}) == 6


def test_the_seed_decides_and_a_longer_load_begins_alike() -> None:
    first, again = prompts(seed=1, num_prompts=5), prompts(seed=1, num_prompts=9)
    assert again[:5] == first
    assert prompts(seed=2, num_prompts=5) != first


def test_text_prompts_have_as_many_words_as_the_scale_says() -> None:
    scale = TextScale.from_probes((40, 55), (240, 305))  # 5 tokens in front, 0.8 words a token
    assert (scale.words_per_token, scale.fixed_tokens) == pytest.approx((0.8, 5.0))
    (turns,) = conversations(scale, num_prompts=1, input_len="105", prompt_format=PromptFormat.TEXT)
    assert isinstance(turns[0].prompt, str)
    assert len(turns[0].prompt.split()) == 80


def test_text_prompts_share_their_prefix() -> None:
    made = conversations(num_prompts=3, endpoint=LoadEndpoint.CHAT, input_len="10", prefix_len=50)
    texts = [str(turns[0].prompt).split() for turns in made]
    assert texts[0][:50] == texts[1][:50] == texts[2][:50]
    assert len({tuple(text[50:]) for text in texts}) == 3


def test_conversations_have_turns_of_their_own_lengths() -> None:
    (turns,) = conversations(num_prompts=1, num_turns=4, input_len="5:50")
    lengths = [len(str(turn.prompt).split()) for turn in turns]
    assert len(lengths) == 4
    assert len(set(lengths)) > 1


@pytest.mark.parametrize("options", [{"endpoint": LoadEndpoint.CHAT}, {"num_turns": 2}])
def test_ids_are_refused_where_only_text_is_taken(options: dict[str, Any]) -> None:
    with pytest.raises(StartupError, match="use --prompt-format text"):
        Workload(LoadConfig(prompt_format=PromptFormat.IDS, **options))


def test_dataset_lines_are_the_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one", "output_tokens": 7}\n\n{"prompt": [1, 2]}\n')
    made = conversations(num_prompts=2, dataset_path=str(path), output_len="9")
    assert [(turns[0].prompt, turns[0].output_len) for turns in made] == [("one", 7), ([1, 2], 9)]
    with pytest.raises(StartupError, match=r"--num-prompts is 3, but .* has 2; lower it"):
        conversations(num_prompts=3, dataset_path=str(path))


def test_predictions_of_a_dataset_are_sent_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one", "prediction": "two"}\n{"prompt": "three"}\n')
    options: dict[str, Any] = {"num_prompts": 1, "dataset_path": str(path), "endpoint": LoadEndpoint.CHAT}
    assert conversations(**options)[0][0].prediction is None
    assert conversations(**options, predictions=True)[0][0].prediction == "two"
    with pytest.raises(StartupError, match=r"line 2 has no prediction; leave out --predictions"):
        conversations(**{**options, "num_prompts": 2}, predictions=True)
    with pytest.raises(StartupError, match="--predictions needs"):
        conversations(num_prompts=1, predictions=True)


@pytest.mark.parametrize("line", ['{"text": "x"}', "not json", '{"prompt": 5}'])
def test_a_wrong_dataset_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line)
    with pytest.raises(StartupError, match=r"prompts.jsonl, line 1: "):
        conversations(num_prompts=1, dataset_path=str(path))


def test_without_a_rate_everything_arrives_at_once() -> None:
    assert arrival_times(3, None, 1.0, seed=0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("burstiness", "spread"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_arrivals_have_the_rate_and_burstiness_asked_for(burstiness: float, spread: float) -> None:
    times = arrival_times(20_000, 5.0, burstiness, seed=3)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.03)
    # Of a gamma distribution, standard deviation over mean is 1 / sqrt(shape).
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(spread, rel=0.05)
