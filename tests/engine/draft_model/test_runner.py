"""TorchDraftRunner: a draft whose output layer has another width than the target's, and logits that are not finite."""

from pathlib import Path

import pytest
import torch

from engine.config import DraftSampling
from engine.draft_model.model import DraftModel
from engine.draft_model.runner import TorchDraftRunner
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.engines import make_request
from tests.helpers.loaded import load_random

TARGET_WIDTH = 100
EOS_IDS = [2]


def _runner(folder: Path, draft_width: int) -> TorchDraftRunner:
    random_model(llama_config(vocab_size=draft_width)).save_pretrained(folder)
    return TorchDraftRunner(
        load_random(folder, torch.float32),
        num_blocks=8,
        block_size=4,
        target_vocab_size=TARGET_WIDTH,
        eos_token_ids=EOS_IDS,
        sampling=DraftSampling.SAMPLED,
    )


def _sequence(id: str, block: int, **sampling: object) -> Sequence:
    request = make_request(id, [5, 6, 7], **{"seed": None, "temperature": 1.0, **sampling})  # type: ignore[arg-type]
    return Sequence(request, seed=3, tokens=[5, 6, 7], num_prompt=3, tables=[[block]])


def _plan(*sequences: Sequence) -> StepPlan:
    return StepPlan([PlanItem(sequence, 0, 3, num_draft=0, needs_logits=True) for sequence in sequences])


@pytest.mark.parametrize("draft_width", [90, 100, 110])
def test_distributions_have_the_targets_width(tmp_path: Path, draft_width: int) -> None:
    result = _runner(tmp_path, draft_width).next_tokens(_plan(_sequence("a", 0)))
    (token_id,), (q,) = result.token_ids, result.probabilities
    assert q is not None
    assert q.shape == (TARGET_WIDTH,)
    assert q.sum() == pytest.approx(1.0)
    assert q[draft_width:].sum() == 0
    assert token_id is not None
    assert q[token_id] > 0


@pytest.mark.parametrize("sampling", [{"logit_bias": {95: 3.0}}, {"stop_token_ids": (95,), "min_tokens": 3}])
def test_ids_that_only_the_target_has_may_be_edited(tmp_path: Path, sampling: dict[str, object]) -> None:
    result = _runner(tmp_path, 90).next_tokens(_plan(_sequence("a", 0, **sampling)))
    assert result.token_ids[0] is not None
    assert result.token_ids[0] < 90


def test_a_drawn_token_leaves_no_doubt_whichever_it_is(tmp_path: Path) -> None:
    """A draft that ended because of an unlikely token would make such tokens rarer in the output."""
    runner = _runner(tmp_path, 100)
    drawn = []
    for seed in range(20):
        sequence = _sequence("a", 0)
        sequence.seed = seed
        result = runner.next_tokens(_plan(sequence))
        drawn += result.token_ids
        assert result.confidences == [1.0]
    assert len(set(drawn)) > 5


def test_nothing_is_drawn_at_random_for_a_seed(tmp_path: Path) -> None:
    runner = _runner(tmp_path, 100)
    for seed in range(5):
        result = runner.next_tokens(_plan(_sequence("a", 0, seed=seed)))
        assert result.probabilities == [None]
        assert result.confidences[0] < 1.0


def test_probabilities_are_those_of_the_last_drafts_and_no_older(tmp_path: Path) -> None:
    """Or the next draft, from elsewhere, would be verified against them."""
    drafter = DraftModel(_runner(tmp_path, 100), block_size=4, max_len=100)
    sequence = _sequence("a", 0)
    sequence.tables = [[0, 1]]
    (draft,), _ = drafter.draft([(sequence, 3)], min_path_prob=0.0)
    assert drafter.probabilities["a"].shape == (len(draft), TARGET_WIDTH)
    drafter.begin_step()
    assert not drafter.probabilities


def test_a_row_that_is_not_finite_drafts_nothing_and_affects_no_other(tmp_path: Path) -> None:
    runner = _runner(tmp_path, 90)
    alone = runner.next_tokens(_plan(_sequence("a", 0))).token_ids
    logits = runner._model.decoder.logits

    def poisoned(hidden: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = logits(hidden)
        rows[1, 4] = torch.nan
        return rows

    runner._model.decoder.logits = poisoned  # type: ignore[method-assign]
    result = runner.next_tokens(_plan(_sequence("a", 1), _sequence("b", 2)))
    assert result.token_ids == [*alone, None]
    assert result.probabilities[1] is None
