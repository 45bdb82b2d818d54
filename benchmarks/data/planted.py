"""Recall and false removals of `headrace data prepare` on files with planted faults, in four languages.

    python -m benchmarks.data.planted --seed 1
    python -m benchmarks.data.planted --speed 10000

English lines are parts of Python's reference, code is of its library; German and Japanese lines are made of parts of
sentences. Nothing is downloaded. For each fault the share of planted lines that its rule removed is printed, and for
each rule the share of the other lines that it removed. --speed measures the command alone, on chats of 200 words.
"""

import argparse
import ast
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from benchmarks.data.sentences import LANGUAGES, OTHERS, REFUSALS, personal_data
from engine.command_io.finetuning.data_preparation import PreparationOptions
from server.data.personal_data import mask_text
from server.data.preparation import Preparation
from server.data.words import window, words_of

_WORD = (r"\w+", r"[\u3040-\u9fff]")
_PLANTED = 60  # lines of each fault


def english(_: random.Random) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()  # topics repeat each other
    for topic in topics.values():
        parts = [" ".join(part.split()) for part in topic.replace("*", "").split("\n\n")]
        sentences = " ".join(part for part in parts if part.endswith(".")).split(". ")
        new = [each for each in sentences if len(each) > 40 and each not in seen]
        seen.update(new)
        for start in range(0, len(new) - 5, 6):
            yield f"{new[start]}.", ". ".join(new[start + 1 : start + 6]) + "."


def code(_: random.Random) -> Iterator[tuple[str, str]]:
    for path in sorted(Path(os.__file__).parent.glob("[a-z]*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            text = ast.get_source_segment(source, node) if isinstance(node, ast.FunctionDef) else None
            if text is not None and 15 <= text.count("\n") <= 40:
                yield f"How is {path.stem}.{node.name} at line {node.lineno} written?", f"```python\n{text}\n```"


def made(language: str) -> Callable[[random.Random], Iterator[tuple[str, str]]]:
    def lines(draw: random.Random) -> Iterator[tuple[str, str]]:
        parts, blank = LANGUAGES[language]
        for _ in range(700):
            sentences = []
            for _ in range(9):
                first, *middle, last = (draw.choice(part) for part in parts)
                draw.shuffle(middle)
                sentences.append(blank.join([first, *middle, last]))
            yield blank.join(sentences[:2]), blank.join(sentences[2:])

    return lines


SOURCES = {"English": english, "German": made("German"), "Japanese": made("Japanese"), "code": code}
CODES = {"English": "en", "German": "de", "Japanese": "ja"}


def chat(question: str, answer: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


def with_changes(text: str, share: float, draw: random.Random, words: list[str], language: str) -> str:
    """Replace a share of the words, or of the characters in Japanese, by words of other texts."""
    found = [*re.finditer(_WORD[language == "Japanese"], text)]
    for match in sorted(draw.sample(found, round(share * len(found))), key=re.Match.start, reverse=True):
        text = text[: match.start()] + draw.choice(words) + text[match.end() :]
    return text


def without_copies(lines: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out texts that have 13 words, or 26 characters in Japanese, in common with an earlier one: these would be
    found, and rightly."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for question, answer in lines:
        words = words_of(f"{question} {answer}")
        width = window(words, 13)
        grams = {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}
        if seen.isdisjoint(grams):
            kept.append((question, answer))
        seen |= grams
    return kept


def planted(
    language: str, clean: list[tuple[str, str]], fresh: list[tuple[str, str]], draw: random.Random
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (rule, line). clean: texts that the file has. fresh: texts that it has not."""
    words = re.findall(_WORD[language == "Japanese"], " ".join(answer for _, answer in clean))
    for number, (question, answer) in enumerate(draw.sample(clean, _PLANTED)):
        yield "duplicate", chat(f" {question}\n", answer.upper() if language != "code" else f"{answer} ")
        for share in (0.04, 0.1):
            yield (
                f"near_duplicate {share:.0%}",
                chat(question, with_changes(answer, share, draw, words, language) + "."),
            )
        other, own = fresh[number]
        yield "chat_empty", chat(other, " ")
        yield "chat_roles", {"messages": [{"role": "user", "content": other}, *chat(other, own)["messages"]]}
        call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"a": '}}
        calling = [{"role": "user", "content": other}, {"role": "assistant", "tool_calls": [call]}]
        yield "chat_tool_calls", {"messages": calling}
        yield "chat_refusal", chat(f"{other} {number}", draw.choice(REFUSALS[language]))
        cut = own[: len(own) * 2 // 3]
        yield "chat_cut_off", chat(other, cut.rstrip(" .,;:!?。、()`'\"-") if language != "code" else cut)
        loop = own.removeprefix("```python")[: len(own) // 6]
        yield "chat_repetition", chat(other, f"{loop} " * 7 + "。.")
        yield "chat_echo", chat(other, f"{other}.")
        broken = "Ä – é".encode().decode("cp1252", "replace")
        yield "chat_mojibake", chat(f"{other} {number}", f"{own} {broken}")


def leaks(language: str, evaluation: list[tuple[str, str]], fresh: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for (question, answer), (other, own) in zip(evaluation, fresh, strict=False):
        yield chat(question, own)
        found = [*re.finditer(_WORD[language == "Japanese"], answer)][3:40]
        passage = answer[found[0].start() : found[-1].end()]
        yield chat(other, f"{passage}\n{own}")


def measure(language: str, seed: int) -> None:
    draw = random.Random(seed)
    lines = without_copies(SOURCES[language](draw))
    draw.shuffle(lines)
    fresh, evaluation, clean = lines[: 2 * _PLANTED], lines[2 * _PLANTED : 3 * _PLANTED], lines[3 * _PLANTED :]
    rows: list[tuple[str | None, dict[str, Any]]] = [(None, chat(*each)) for each in clean]
    rows += planted(language, clean, fresh, draw)
    rows += [("contaminated", line) for line in leaks(language, evaluation, fresh[_PLANTED:])]
    if language in CODES:
        rows += [
            ("language", chat(f"{text[:30]} {number}", text))
            for number in range(20)
            for text in OTHERS
            if language not in text
        ]
    languages = (CODES[language],) if language in CODES else ()
    preparation = Preparation(PreparationOptions(languages=languages, max_removed=1), ["a"], seed)
    encoded = (json.dumps(chat(*each)).encode() for each in evaluation)
    preparation.add_evaluation("eval", enumerate(encoded, 1))
    rules: list[str | None] = []
    for number, (_, line) in enumerate(rows, 1):
        before = {name: each.num for name, each in preparation.report.removed.items()}
        preparation.add(0, number, json.dumps(line, ensure_ascii=False).encode())
        after = preparation.report.removed
        rules.append(next((name for name, each in after.items() if each.num != before.get(name, 0)), None))
    found: Counter[str] = Counter()
    given = Counter(fault for fault, _ in rows if fault is not None)
    false: Counter[str] = Counter()
    for (fault, _), rule in zip(rows, rules, strict=True):
        if fault is None:
            false.update([rule] if rule else [])
        elif rule == fault.split()[0]:
            found[fault] += 1
    sys.stdout.write(f"\n{language}: {len(clean):,} lines without faults\n")
    for fault, count in given.items():
        sys.stdout.write(f"  {fault:20} found {found[fault] / count:7.1%} of {count}\n")
    mistakes = ", ".join(f"{rule} {count / len(clean):.2%}" for rule, count in false.items())
    sys.stdout.write(f"  removed by mistake: {mistakes or 'none'}\n")
    sys.stdout.write(f"  personal data: {masked(clean, draw)}\n")


def masked(clean: list[tuple[str, str]], draw: random.Random) -> str:
    by_mistake: Counter[str] = Counter()
    for question, answer in clean:
        mask_text(f"{question} {answer}", by_mistake)
    found, given = 0, 0
    for _, answer in draw.sample(clean, _PLANTED):
        for kind, text in personal_data(draw):
            given += 1
            counts: Counter[str] = Counter()
            masked_text = mask_text(f"{answer[:80]} {text} {answer[80:]}", counts)
            found += text not in masked_text and counts[kind] > 0
    return f"masked {found / given:.1%} of {given}, and {by_mistake.total() / len(clean):.2%} of the lines by mistake"


def speed(num_lines: int, seed: int) -> None:
    draw = random.Random(seed)
    vocabulary = [
        "".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))
        for _ in range(8000)
    ]
    weights = [1 / (place + 3) for place in range(len(vocabulary))]

    def text(count: int) -> str:
        return " ".join(draw.choices(vocabulary, weights, k=count)) + "."

    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("in", num_lines), ("eval", 500)):
            rows = (json.dumps(chat(text(40), text(160))) + "\n" for _ in range(count))
            Path(folder, f"{name}.jsonl").write_text("".join(rows))
        began_s = time.monotonic()
        command = ["prepare", "in.jsonl", "--out", "out.jsonl", "--against", "eval.jsonl", "--report", "report.json"]
        run = [sys.executable, "-m", "server.cli", "data", *command, "--mask-pii", "--max-removed", "1"]
        subprocess.run(run, cwd=folder, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(
        f"{num_lines:,} chats of 200 words: {used.ru_utime + used.ru_stime:.1f} s of processor, "
        f"{time.monotonic() - began_s:.1f} s, {used.ru_maxrss / 1024:,.0f} MiB\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=int, metavar="LINES", help="measure the time of the command instead")
    parser.add_argument("--language", choices=SOURCES, nargs="+", default=list(SOURCES))
    arguments = parser.parse_args()
    if arguments.speed:
        speed(arguments.speed, arguments.seed)
        return
    for language in arguments.language:
        measure(language, arguments.seed)


if __name__ == "__main__":
    main()
