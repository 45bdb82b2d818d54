"""LineScorer: asks a model for the log probabilities of a line's tokens, and makes the line's scores of them."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.command_io.finetuning.job import TrainingMethod
from engine.errors import StartupError
from server.data.lines import LineKind
from server.data.preparation import KeptLine
from server.finetuning.examples import ExampleMaker
from server.finetuning.lines import read_training_line
from server.jobs.answers import BodyAnswer

COMPLETIONS = "/v1/completions"
METHODS = {
    LineKind.CHAT: TrainingMethod.SUPERVISED,
    LineKind.COMPLETION: TrainingMethod.SUPERVISED,
    LineKind.PREFERENCE: TrainingMethod.DPO,
    LineKind.PROMPT: TrainingMethod.REINFORCEMENT,
    LineKind.TEXT: TrainingMethod.PRETRAINING,
}
_DECIMALS = 4  # of a score, so that reports are the same where computations differ in their last bits

Ask = Callable[[dict[str, Any]], Awaitable[BodyAnswer]]  # answers a body of COMPLETIONS


@dataclass(frozen=True, slots=True)
class LineScore:
    """Scores of a line. perplexity: of the tokens that are learned, given what precedes them. ifd: the difficulty of
    following its instruction (Li et al. 2023): the mean loss of the answers' tokens with their prompts, divided by that
    without; None for plain text and for answers of one token."""

    perplexity: float
    ifd: float | None


class _Logprob(msgspec.Struct):
    logprob: float


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, _Logprob] | None]


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class LineScorer:
    """Scores lines. Stateless between lines."""

    def __init__(self, ask: Ask, model: str, maker: ExampleMaker) -> None:
        self._ask = ask
        self._model = model
        self._maker = maker

    def passages(self, line: KeptLine) -> list[Passage]:
        """Return the texts of a line, tokenized as a job would; of a preference, the preferred one. Raises InvalidLine
        for a line that a job would refuse."""
        if line.kind is LineKind.PROMPT:  # nothing is learned from it
            return []
        content, _ = read_training_line(line.data, METHODS[line.kind])
        items = self._maker.examples(content, line.number)
        return [item.passages[0] for item in items if isinstance(item, TrainingItem)]

    async def score(self, line: KeptLine, passages: Sequence[Passage]) -> LineScore | None:
        """Return the scores of the passages of a line; None without any. Raises StartupError for a refused request."""
        losses, given, alone = [], [], []
        for passage in passages:
            known = await self._losses(passage.ids, line)
            for first, last in passage.trained:
                losses += known[first:last]
                if line.kind is not LineKind.TEXT and last - first > 1:
                    # The first token of an answer alone is predicted by nothing, so it counts on neither side.
                    given += known[first + 1 : last]
                    alone += (await self._losses(passage.ids[first:last], line))[1:]
        if not losses:
            return None
        without = sum(alone)
        ifd = round(sum(given) / without, _DECIMALS) if without > 0 else None
        mean = sum(losses) / len(losses)
        return LineScore(round(math.exp(min(mean, 700)), _DECIMALS), ifd)

    async def _losses(self, ids: Sequence[int], line: KeptLine) -> list[float]:
        """Return the negative log probability of each token, and 0 for the first."""
        body = {"model": self._model, "prompt": [list(ids)], "max_tokens": 0, "prompt_logprobs": 0}
        answer = await self._ask(body)
        if not answer.is_completed:
            message = msgspec.json.decode(answer.body)["error"]["message"]
            raise StartupError(f"line {line.number} cannot be scored: {message}")
        logprobs = msgspec.json.decode(answer.body, type=_Completion).choices[0].prompt_logprobs
        return [0.0 if each is None else -each[token].logprob for token, each in zip(ids, logprobs, strict=True)]
