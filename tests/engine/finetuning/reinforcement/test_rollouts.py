"""What a rollout's answer is: its text, without the thought of a model that thinks."""

from typing import Any

import pytest
import tokenizers

from engine.command_io.finetuning.items import GradedPrompt
from engine.command_io.finetuning.thoughts import ThoughtMarks
from engine.finetuning.reinforcement.rollouts import RolloutSampler
from tests.helpers.tokenizers import byte_level_json

NOTHING: Any = None  # no model is needed to read ids
THINKS = ThoughtMarks("<think>", "</think>")


@pytest.mark.parametrize(
    ("marks", "prompt", "text", "answer"),
    [
        (THINKS, "hi", "<think>two</think>\n\nIt is 2.", "It is 2."),
        (THINKS, "hi<think>\n", "two</think>It is 2.", "It is 2."),
        (THINKS, "hi<think>\n", "two and two", ""),
        (THINKS, "hi", "It is 2.", "It is 2."),
        (None, "hi", "<think>two</think>It is 2.", "<think>two</think>It is 2."),
    ],
)
def test_a_thought_is_not_graded(marks: ThoughtMarks | None, prompt: str, text: str, answer: str) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(byte_level_json())
    if marks is not None:
        tokenizer.add_special_tokens([marks.start, marks.end])
    end = tokenizer.token_to_id("</s>")
    sampler = RolloutSampler(NOTHING, NOTHING, tokenizer, [end], 64, marks)
    ids = [*tokenizer.encode(text, add_special_tokens=False).ids, end]
    asked = tokenizer.encode(prompt, add_special_tokens=False).ids
    found = sampler.rollout(GradedPrompt(asked), ids)
    assert (found.text, found.ids, found.is_complete) == (answer, ids, True)
