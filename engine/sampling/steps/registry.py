"""The steps that edit the logits of single rows, in their order."""

from typing import Protocol

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow
from engine.sampling.steps.allowed_tokens import AllowedTokens
from engine.sampling.steps.bad_words import BadWords
from engine.sampling.steps.dry import DryPenalties
from engine.sampling.steps.logit_bias import LogitBias
from engine.sampling.steps.min_tokens import MinTokens
from engine.sampling.steps.penalties import Penalties


class LogitStep(Protocol):
    """A step that edits the rows of requests that use it. It holds what it knows of sequences until they are released.

    The result for a row depends on nothing but the row.
    """

    def is_used(self, sampling: SamplingParams) -> bool:
        """Whether requests with these parameters use the step: no other row enters it."""

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        """Edit the logits ([V] fp32) of a row in place; returns whether any have changed."""

    def release(self, sequence_id: str) -> None: ...


def logit_steps(eos_token_ids: list[int]) -> tuple[LogitStep, ...]:
    return (LogitBias(), Penalties(), DryPenalties(), AllowedTokens(), BadWords(), MinTokens(eos_token_ids))
