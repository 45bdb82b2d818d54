"""LineScorer: a line's scores by a model, of the log probabilities of its tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.command_io.finetuning.job import TrainingMethod
from server.data.lines import LineKind
from server.data.preparation import KeptLine
from server.finetuning.examples import ExampleMaker
from server.finetuning.lines import read_training_line
from server.finetuning.scores.line_questions import LineQuestion, check_answer
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
    """Makes the requests that score a line, and its scores of the answers. Stateless between lines."""

    def __init__(self, model: str, maker: ExampleMaker) -> None:
        self._model = model
        self._maker = maker

    def question(self, line: KeptLine) -> LineQuestion | None:
        """Return the requests that score the line; None for a prompt, from which nothing is learned. Of a preference,
        the preferred answer is scored. Raises InvalidLine for a line that a job would refuse."""
        if line.kind is LineKind.PROMPT:
            return None
        content, _ = read_training_line(line.data, METHODS[line.kind])
        items = self._maker.examples(content, line.number)
        passages = [item.passages[0] for item in items if isinstance(item, TrainingItem)]
        is_compared = line.kind is not LineKind.TEXT
        texts = list(_texts(passages, is_compared))
        bodies = [{"model": self._model, "prompt": [ids], "max_tokens": 0, "prompt_logprobs": 0} for ids in texts]

        def read(answers: Sequence[BodyAnswer]) -> tuple[float, float | None]:
            pairs = zip(texts, answers, strict=True)
            return _scores(passages, is_compared, [_losses(ids, answer, line) for ids, answer in pairs])

        return LineQuestion(bodies, read)


def _texts(passages: Sequence[Passage], is_compared: bool) -> Iterator[list[int]]:
    """Yield each passage, followed by its answers alone if they are compared with it."""
    for passage in passages:
        yield passage.ids
        if is_compared:
            yield from (passage.ids[first:last] for first, last in passage.trained if last - first > 1)


def _scores(
    passages: Sequence[Passage], is_compared: bool, losses: Sequence[Sequence[float]]
) -> tuple[float, float | None]:
    """Return the fields of a LineScore. losses: of each of the `_texts`."""
    learned, given, alone = list[float](), list[float](), list[float]()
    left = iter(losses)
    for passage in passages:
        known = next(left)
        for first, last in passage.trained:
            learned += known[first:last]
            if is_compared and last - first > 1:
                # The first token of an answer alone is predicted by nothing, so it counts on neither side.
                given += known[first + 1 : last]
                alone += next(left)[1:]
    without = sum(alone)
    ifd = round(sum(given) / without, _DECIMALS) if without > 0 else None
    return round(math.exp(min(sum(learned) / len(learned), 700)), _DECIMALS), ifd


def _losses(ids: Sequence[int], answer: BodyAnswer, line: KeptLine) -> list[float]:
    """Return the negative log probability of each token, and 0 for the first. Raises StartupError for a refused
    request."""
    check_answer(answer, line, "scored")
    logprobs = msgspec.json.decode(answer.body, type=_Completion).choices[0].prompt_logprobs
    return [0.0 if each is None else -each[token].logprob for token, each in zip(ids, logprobs, strict=True)]
