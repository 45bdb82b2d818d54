"""Semantic duplicates by an embedding model: how many paraphrases a threshold finds, and what else it would remove.

    .venv/bin/headrace serve demo:minilm --port 8000
    .venv/bin/python -m benchmarks.data.semantic --server http://127.0.0.1:8000

paraphrases.jsonl has 40 chats in English, each with another one that says the same, and with one that resembles it but
says something else (another day, city, verb). For each threshold the share of paraphrases found is printed, and the
number of lines that would be removed by mistake: of those that resemble, and of all pairs of different chats.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.data.planted import chat
from benchmarks.tables import markdown
from engine.command_io.finetuning.data_preparation import Dedup, PreparationOptions
from server.commands.data.server_model import ServerAddress, ServerModel, on_server
from server.data.preparation import Preparation
from server.finetuning.scores.semantic import EMBEDDINGS, SemanticDuplicates, least_cosines, matrices_of

_THRESHOLDS = (0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.975)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--model", help="one of the server's models (default: its only one)")
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(__file__).with_name("paraphrases.jsonl").read_text().splitlines()]
    cosines = _cosines([chat(*row[kind]) for row in rows for kind in ("line", "same", "other")], options)
    same = [cosines[3 * place, 3 * place + 1] for place in range(len(rows))]
    similar = [cosines[3 * place, 3 * place + 2] for place in range(len(rows))]
    others = [value for (one, other), value in cosines.items() if one // 3 != other // 3]
    table = [
        (
            f"{threshold:g}",
            f"{sum(value >= threshold for value in same)} of {len(same)}",
            f"{sum(value >= threshold for value in similar)} of {len(similar)}",
            f"{sum(value >= threshold for value in others)} of {len(others):,}",
        )
        for threshold in _THRESHOLDS
    ]
    sys.stdout.write(markdown(("cosine", "paraphrases found", "similar chats", "other pairs"), table) + "\n")
    return 0


def _cosines(lines: list[dict[str, Any]], options: argparse.Namespace) -> dict[tuple[int, int], float]:
    """Return the cosines by which the step would decide, of each pair of lines."""

    async def work(model: ServerModel) -> dict[tuple[int, int], float]:
        given = PreparationOptions(dedup=Dedup.NONE, quality=(), semantic_model=await model.name())
        preparation = Preparation(given, ["paraphrases"])
        for number, line in enumerate(lines, 1):
            preparation.add(0, number, json.dumps(line).encode())
        duplicates = SemanticDuplicates(preparation)
        questions = [duplicates.question(line) for line in preparation.kept]
        answers = await model.answer(EMBEDDINGS, [body for question in questions for body in question.bodies])
        values = [question.read([answer]) for question, answer in zip(questions, answers, strict=True)]
        matrix = least_cosines(matrices_of(values), 0, len(values))
        return {pair: float(matrix[pair[1], pair[0]]) for pair in itertools.combinations(range(len(lines)), 2)}

    return on_server(ServerAddress(options.server, None, ""), options.model, work)


if __name__ == "__main__":
    raise SystemExit(main())
