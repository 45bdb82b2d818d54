"""The requests of a load, generated from a seed or read from a file. The same options and seed give the same load.

Every generated prompt differs from the others from its first words on, so that no prefix cache helps beyond the shared
prefixes that were requested. The seed is part of the prompts: a second run against the same server needs another seed.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.lengths import Lengths, parse_lengths
from engine.errors import StartupError
from server.loadtest.config import LoadConfig, LoadEndpoint, PromptFormat

# Words that are mostly one token each in byte-pair vocabularies; the real number of tokens is measured.
_TEXT = """
the water of a mill runs from its river in narrow channel and falls on wheel below where it turns slowly while grain
is ground between two stones that were cut by hand long ago people came here with their carts at first light to wait
for turn talk about weather price bread or news town before road was built there stood only small house under old
trees near bridge when spring rain made stream rise high above bank men would close gate open side weir let flood pass
away without harm summer sometimes so little flow left day must be given over rest repair then miller cleaned race set
new boards oiled shaft sent children out look fish among reeds winter ice had broken every morning else great heavy
frame could not move such work asked patience strong back good ear because sound told more than eye what might soon go
wrong
"""
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a client: a whole prompt of token ids, or text that follows the previous turns."""

    prompt: list[int] | str
    output_len: int
    prediction: str | None = None  # OpenAI's `prediction`


Conversation = list[Turn]  # often of one turn


@dataclass(frozen=True, slots=True)
class TextScale:
    """Conversion of tokens to words: words per token, and tokens of an empty prompt (BOS, chat template)."""

    words_per_token: float = 1.0
    fixed_tokens: float = 0.0

    @classmethod
    def from_probes(cls, short: tuple[int, int], long: tuple[int, int]) -> "TextScale":
        """Fit the scale to two measured prompts, each as (words, tokens)."""
        (short_words, short_tokens), (long_words, long_tokens) = short, long
        slope = (long_words - short_words) / max(1, long_tokens - short_tokens)
        return cls(slope, short_tokens - short_words / slope)

    def num_words(self, num_tokens: int) -> int:
        return max(1, round((num_tokens - self.fixed_tokens) * self.words_per_token))


class Workload:
    """Generates conversations from a config; each depends only on the seed and its index."""

    def __init__(self, config: LoadConfig) -> None:
        """Raises StartupError for options that contradict each other."""
        self._config = config
        self._input_len = parse_lengths(config.input_len, "--input-len")
        self._output_len = parse_lengths(config.output_len, "--output-len")
        self._low_id, self._high_id = _parse_id_range(config.token_id_range)
        self.uses_text = _uses_text(config)
        if config.dataset_path is not None and (config.prefix_len or config.num_turns > 1):
            raise StartupError("--dataset-path gives whole prompts; leave out --prefix-len and --num-turns")
        if config.predictions and (config.dataset_path is None or config.endpoint is not LoadEndpoint.CHAT):
            raise StartupError("--predictions needs a --dataset-path that has predictions, and --endpoint chat")

    def warm_up(self, index: int, scale: TextScale) -> Conversation:
        """Return a conversation of the same kind that shares nothing with the measured ones, not even the prefix."""
        return self._generate(f"warm-up {index}", f"warm-up {index}", scale)

    def conversations(self, scale: TextScale) -> list[Conversation]:
        """Return all conversations to measure. Raises StartupError if the dataset cannot be used."""
        config = self._config
        if config.dataset_path is not None:
            return _read_dataset(config, self._output_len)
        return [
            self._generate(str(index), f"prefix {index % config.num_prefixes}", scale)
            for index in range(config.num_prompts)
        ]

    def _generate(self, name: str, prefix_name: str, scale: TextScale) -> Conversation:
        rng = random.Random(f"{self._config.seed} {name}")
        prefix_rng = random.Random(f"{self._config.seed} {prefix_name}")
        lengths = [(self._input_len.draw(rng), self._output_len.draw(rng)) for _ in range(self._config.num_turns)]
        prefix_len = self._config.prefix_len
        if not self.uses_text:
            ((input_len, output_len),) = lengths
            return [Turn(self._ids(prefix_rng, prefix_len) + self._ids(rng, input_len), output_len)]
        turns = []
        for index, (input_len, output_len) in enumerate(lengths):
            first_len = prefix_len if index == 0 else 0
            num_words = scale.num_words(first_len + input_len)
            num_shared = min(num_words - 1, round(first_len * scale.words_per_token))
            text = random_words(prefix_rng, num_shared) + random_words(rng, num_words - num_shared)
            turns.append(Turn(" ".join(text), output_len))
        return turns

    def _ids(self, rng: random.Random, count: int) -> list[int]:
        return [rng.randrange(self._low_id, self._high_id) for _ in range(count)]


def random_words(rng: random.Random, count: int) -> list[str]:
    return rng.choices(_WORDS, k=count)


def _uses_text(config: LoadConfig) -> bool:
    takes_ids = config.endpoint is LoadEndpoint.COMPLETIONS and config.num_turns == 1
    if config.prompt_format is PromptFormat.IDS and not takes_ids:
        raise StartupError(
            "--prompt-format is ids, which only --endpoint completions with --num-turns 1 takes: chats and the answers "
            "repeated in a conversation are text; use --prompt-format text"
        )
    return not takes_ids or config.prompt_format is PromptFormat.TEXT


def _parse_id_range(text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(":"))
    except ValueError:
        low, high = 0, 0
    if not 0 <= low < high:
        raise StartupError(
            f"--token-id-range is {text!r}; it must be LOW:HIGH with 0 <= LOW < HIGH, such as 1000:20000"
        )
    return low, high


class _DatasetLine(msgspec.Struct):
    prompt: list[int] | str
    output_tokens: int | None = None  # default: --output-len
    prediction: str | None = None  # expected text of the answer, sent with --predictions


def _read_dataset(config: LoadConfig, output_len: Lengths) -> list[Conversation]:
    """Return the first --num-prompts lines of the file, in order."""
    assert config.dataset_path is not None
    try:
        lines = [line for line in Path(config.dataset_path).read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise StartupError(f"cannot read {config.dataset_path}: {error.strerror}") from error
    if len(lines) < config.num_prompts:
        raise StartupError(
            f"--num-prompts is {config.num_prompts}, but {config.dataset_path} has {len(lines)}; lower it, since "
            "repeated prompts would be answered from caches"
        )
    conversations = []
    for number, line in enumerate(lines[: config.num_prompts], start=1):
        try:
            entry = msgspec.json.decode(line, type=_DatasetLine)
        except msgspec.DecodeError as error:
            raise StartupError(f"{config.dataset_path}, line {number}: {error}") from error
        if config.endpoint is LoadEndpoint.CHAT and not isinstance(entry.prompt, str):
            raise StartupError(f"{config.dataset_path}, line {number}: chats take text, not token ids")
        rng = random.Random(f"{config.seed} {number}")
        wanted = entry.output_tokens if entry.output_tokens is not None else output_len.draw(rng)
        if config.predictions and entry.prediction is None:
            raise StartupError(f"{config.dataset_path}, line {number} has no prediction; leave out --predictions")
        conversations.append([Turn(entry.prompt, wanted, entry.prediction if config.predictions else None)])
    return conversations
