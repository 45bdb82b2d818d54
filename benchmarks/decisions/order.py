"""Share of choices that turn when their options come in the opposite order, by `permutations`, and their accuracy.

    headrace serve model.gguf
    python -m benchmarks.decisions.order http://127.0.0.1:8000 rows.jsonl --permutations 1 4

rows.jsonl is a file for `headrace calibrate`, such as benchmarks.decisions.known_answers writes; its choices are asked.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.tables import markdown

_HEAD = ("permutations", "choices", "turn with the order", "accuracy")


def choices_in(path: Path) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """Yield the input, question and answer of each choice in a file of rows."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for question, answer in zip(row["body"]["questions"], row["answers"], strict=True):
            if question["type"] == "choice":
                yield row["body"]["input"], question, answer


def reversed_options(question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "choices": question["choices"][::-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--permutations", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--num", type=int, default=100, help="choices, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = list(choices_in(args.rows))
    drawn = random.Random(args.seed).sample(found, min(args.num, len(found)))
    rows = []
    with httpx.Client(base_url=args.url, timeout=3600.0, trust_env=False) as client:
        for permutations in args.permutations:
            num_turned = num_right = 0
            for text, question, answer in drawn:
                body = {"input": text, "questions": [question, reversed_options(question)], "min_mass": 0}
                response = client.post("/v1/decisions", json={**body, "permutations": permutations}).raise_for_status()
                first, second = [each["choice"] for each in response.json()["answers"]]
                num_turned += first != second
                num_right += (first == answer) + (second == answer)
            shares = (num_turned / len(drawn), num_right / len(drawn) / 2)
            rows.append([str(permutations), str(len(drawn)), *(f"{share:.1%}" for share in shares)])
    sys.stdout.write(f"{markdown(_HEAD, rows)}\n")


if __name__ == "__main__":
    main()
