"""The pipeline steps that edit the logits of single rows, in order."""

from typing import Protocol

import torch

from engine.sampling.rows import LogitsRow
from engine.sampling.steps.allowed_tokens import AllowedTokens
from engine.sampling.steps.bad_words import BadWords
from engine.sampling.steps.dry import DryPenalties
from engine.sampling.steps.logit_bias import LogitBias
from engine.sampling.steps.min_tokens import MinTokens
from engine.sampling.steps.penalties import Penalties


class LogitStep(Protocol):
    """A step that edits the rows of one sequence. Its result depends only on the row."""

    def apply(self, logits: torch.Tensor, row: LogitsRow, /) -> bool:
        """Edit the logits ([V] fp32) of a row in place; return whether any changed."""


def logit_steps(row: LogitsRow, logits: torch.Tensor, eos_token_ids: list[int]) -> tuple[LogitStep, ...]:
    """Create the steps that a row's request uses. logits: [V], for the vocabulary's size and the device."""
    sampling = row.sampling
    steps: list[LogitStep] = []
    if sampling.logit_bias:
        steps.append(LogitBias(sampling.logit_bias, logits.device))
    if sampling.has_penalties:
        steps.append(Penalties())
    if sampling.dry is not None:
        steps.append(DryPenalties(sampling.dry, row.known_from(0), vocab_size=len(logits)))
    if sampling.allowed_token_ids is not None:
        steps.append(AllowedTokens(sampling.allowed_token_ids, logits.device))
    if sampling.bad_words:
        steps.append(BadWords(sampling.bad_words))
    if sampling.min_tokens > 0:
        steps.append(MinTokens(sampling, eos_token_ids))
    return tuple(steps)
