"""Thinking budgets: the mark that ends a thought is forced when it is due, drafts or not, and at no other place."""

import pytest
import torch

from engine.protocol import ThinkingBudget
from engine.sampling.logit_edits import LogitEditor
from engine.scheduling.sequence import Sequence
from models.kernels.torch.logits import LogitOperations
from tests.helpers.engines import make_request
from tests.helpers.logits_rows import rows_of

START, END = 8, 9


def _due(output: list[int], draft: list[int], budget: ThinkingBudget) -> list[bool]:
    """Whether each row of a sequence can have the end mark alone."""
    request = make_request("r", [START, END], thinking=budget)
    sequence = Sequence(request, seed=0, tokens=[START, END, *output], num_prompt=2, draft=draft)
    editor = LogitEditor([0], LogitOperations())
    logits = torch.zeros((len(draft) + 1, 10))
    edited = editor.edit(logits, rows_of(sequence))
    only_end = [torch.isfinite(row).nonzero().flatten().tolist() == [END] for row in logits]
    assert edited == [index for index, is_due in enumerate(only_end) if is_due]
    return only_end


@pytest.mark.parametrize(
    ("output", "draft", "due"),
    [
        ([], [1, 1, 1], [False, False, False, True]),
        ([1, 1], [1, 1, 1], [False, True, True, True]),
        ([1, END, 1, 1, 1, 1], [1], [False, False]),  # it has ended by itself
        ([1, 1], [END, 1, 1], [False, False, False, False]),
        ([1, 1, 1], [END, 1], [True, False, False]),
    ],
)
def test_a_thought_that_the_prompt_opens(output: list[int], draft: list[int], due: list[bool]) -> None:
    assert _due(output, draft, ThinkingBudget(3, None, END, is_open=True)) == due


@pytest.mark.parametrize(
    ("output", "draft", "due"),
    [
        ([1, 1, 1, 1], [1], [False, False]),  # there is no thought
        ([1, START, 1, 1, 1], [], [True]),
        ([1], [START, 1, 1, 1], [False, False, False, False, True]),
        ([START, 1, END, 1, 1, START, 1], [1, 1], [False, True, True]),  # all thoughts count together
        ([START, 1, 1, 1, END, 1, START], [], [True]),  # nothing is left for another one
        ([START, 1, 1, 1, END, 1], [1, START], [False, False, True]),
    ],
)
def test_a_thought_that_the_model_opens(output: list[int], draft: list[int], due: list[bool]) -> None:
    assert _due(output, draft, ThinkingBudget(3, START, END)) == due


def test_a_thought_after_the_one_that_the_prompt_opens_counts_too() -> None:
    budget = ThinkingBudget(3, START, END, is_open=True)
    assert _due([1, 1, END, 1, START], [1, 1], budget) == [False, True, True]


def test_a_budget_of_nothing_ends_the_thought_at_once() -> None:
    assert _due([], [], ThinkingBudget(0, None, END, is_open=True)) == [True]


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_mark_that_the_grammar_does_not_take_yet_is_not_forced(is_masked: bool) -> None:
    """Within a character of several tokens: what ended it there would match no grammar of what follows."""
    request = make_request("r", [1], thinking=ThinkingBudget(2, None, END, is_open=True))
    sequence = Sequence(request, seed=0, tokens=[1, 1, 1, 1], num_prompt=1)
    logits = torch.zeros((1, 10))
    logits[0, [START, END] if is_masked else [START]] = -torch.inf  # as a mask leaves them
    edited = LogitEditor([0], LogitOperations()).edit(logits, rows_of(sequence))
    assert (edited == []) == is_masked
    assert torch.isfinite(logits[0]).nonzero().flatten().tolist() == (list(range(8)) if is_masked else [END])
