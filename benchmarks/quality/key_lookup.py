"""Whether a model finds keys in long texts, with each dtype of the KV cache.

    .venv/bin/python -m benchmarks.quality.key_lookup MODEL --dtypes auto int8 --tokens 8000 32000

Sentences with a six-digit code each are put into pages of docs/ at several depths. Then the model continues the
sentence with each code, greedily. The text is computed once for all codes, which share it in the prefix cache.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from benchmarks.results import machine_name
from benchmarks.tables import markdown
from engine.config import EngineConfig, KVCacheDType
from engine.engine import Engine
from engine.errors import HeadraceError
from engine.protocol import EngineRequest, SamplingParams
from engine.startup.build import build_engine
from models.errors import ModelError

_DOCS = Path(__file__).parents[2] / "docs"
_PAGES = ("performance.md", "architecture.md", "models.md", "operations.md", "fine-tuning.md", "requests.md")
_THINGS = ("blue warehouse", "old harbor", "night train", "stone bridge", "paper mill", "glass tower", "north gate")
_ANSWER_TOKENS, _SPARE_TOKENS = 12, 128


class Text(NamedTuple):
    """A text with hidden codes: (thing, code) in the order of their depths."""

    body: str
    codes: list[tuple[str, str]]


class Answer(NamedTuple):
    """The continuation of a sentence. logprob: of the tokens up to the end of the code."""

    is_right: bool
    logprob: float


def make_text(
    paragraphs: Sequence[str], tokenizer: Tokenizer, num_tokens: int, depths: Sequence[float], seed: int
) -> Text:
    """Return paragraphs of about `num_tokens` tokens, with a code at each depth. seed: chooses where the text begins,
    and the codes. Raises ValueError if the paragraphs are too few."""
    source = random.Random(seed)
    first = source.randrange(len(paragraphs))
    things = source.sample(_THINGS, len(depths))
    codes = [(thing, str(source.randrange(100_000, 1_000_000))) for thing in things]
    pending = list(zip(depths, codes, strict=True))
    parts: list[str] = []
    length = 0
    for paragraph in [*paragraphs[first:], *paragraphs[:first]]:
        while pending and length >= pending[0][0] * num_tokens:
            parts.append(_sentence(*pending.pop(0)[1]))
        size = len(tokenizer.encode(paragraph + "\n\n", add_special_tokens=False).ids)
        if length + size > num_tokens:
            break
        parts.append(paragraph)
        length += size
    else:
        raise ValueError(f"the pages have {length:,} tokens, and a text is to have {num_tokens:,}; choose fewer")
    parts += [_sentence(*each) for _, each in pending]
    return Text("\n\n".join(parts), codes)


def _sentence(thing: str, code: str) -> str:
    return f"The access code of the {thing} is {code}."


def look_up(engine: Engine, tokenizer: Tokenizer, text: Text, name: str) -> list[Answer]:
    """Return the answer for each code of a text."""
    sampling = SamplingParams(max_tokens=_ANSWER_TOKENS, temperature=0.0, logprobs=0)
    for number, (thing, _) in enumerate(text.codes):
        prompt = f"{text.body}\n\nAs was said above, the access code of the {thing} is"
        prompt_ids = tokenizer.encode(prompt).ids
        engine.add(EngineRequest(id=f"{name}-{number}", prompt_ids=prompt_ids, sampling=sampling, arrival_s=0.0))
    entries: dict[str, list[tuple[int, float]]] = {}
    while engine.has_work:
        for output in engine.step().outputs:
            if output.error is not None:
                raise ValueError(output.error)
            entries.setdefault(output.id, []).extend((each.token_id, each.logprob) for each in output.logprobs or ())
    return [_answer(tokenizer, entries[f"{name}-{number}"], code) for number, (_, code) in enumerate(text.codes)]


def _answer(tokenizer: Tokenizer, entries: list[tuple[int, float]], code: str) -> Answer:
    logprob, ids = 0.0, []
    for token_id, each in entries:
        ids.append(token_id)
        logprob += each
        said = tokenizer.decode(ids).strip()
        if len(said) >= len(code):
            return Answer(said.startswith(code), logprob)
    return Answer(False, logprob)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.quality.key_lookup", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--dtypes", nargs="+", choices=list(KVCacheDType), default=["auto", "int8"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[8000, 32_000], help="of a text")
    parser.add_argument("--texts", type=int, default=1, help="of each length")
    parser.add_argument(
        "--depths", nargs="+", type=float, default=[0.05, 0.3, 0.6, 0.9], help="of the codes; 0 is first"
    )
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if len(options.depths) > len(_THINGS):
        parser.error(f"--depths has {len(options.depths)} numbers; at most {len(_THINGS)} are possible")
    paragraphs = [each for page in _PAGES for each in (_DOCS / page).read_text(encoding="utf-8").split("\n\n")]
    lines = []
    try:
        for dtype in options.dtypes:
            config = EngineConfig(
                model=options.model,
                max_model_len=max(options.tokens) + _SPARE_TOKENS,
                kv_cache_dtype=KVCacheDType(dtype),
                threads=options.threads,
            )
            engine, _ = build_engine(config, lambda *_: None)
            tokenizer = Tokenizer.from_str(engine._runner._model.tokenizer.tokenizer_json.decode())  # type: ignore[attr-defined]
            for num_tokens in options.tokens:
                answers = []
                for seed in range(options.texts):
                    text = make_text(paragraphs, tokenizer, num_tokens, sorted(options.depths), seed)
                    answers.append(look_up(engine, tokenizer, text, f"{num_tokens}-{seed}"))
                lines.append([dtype, f"{num_tokens:,}", *_cells(answers)])
                sys.stderr.write(f"{' | '.join(lines[-1])}\n")
            engine.close()
            del engine
    except (HeadraceError, ModelError, OSError, ValueError) as error:
        sys.stderr.write(f"key_lookup: {error}\n")
        return 1
    headings = ["KV cache", "tokens", *(f"depth {depth:g}" for depth in sorted(options.depths)), "log probability"]
    sys.stdout.write(
        f"{Path(options.model).name} on {machine_name()}; codes found, of {options.texts} at each depth.\n\n"
    )
    sys.stdout.write(markdown(headings, lines) + "\n")
    return 0


def _cells(answers: Sequence[Sequence[Answer]]) -> list[str]:
    """Return the number of codes found at each depth, and the mean log probability of an answer. answers: of each
    text."""
    found = [sum(answer.is_right for answer in at_depth) for at_depth in zip(*answers, strict=True)]
    every = [answer.logprob for of_text in answers for answer in of_text]
    return [*map(str, found), f"{sum(every) / len(every):.3f}"]


if __name__ == "__main__":
    sys.exit(main())
