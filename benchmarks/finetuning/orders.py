"""Validation losses of `headrace finetune` with a curriculum and with the examples in random order, on the same data.

    .venv/bin/python -m benchmarks.finetuning.orders model.gguf --out /tmp/orders

Without --train and --validation, the examples are sums of numbers of one to four digits, worked out column by column:
short and easy ones, and long and difficult ones. Options of `headrace finetune` follow after `--`.
"""

import argparse
import csv
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.finetuning.jobs import chat, finetune, split_options, write_lines
from benchmarks.tables import markdown
from engine.command_io.finetuning.job import JobFolder

_NUM_TRAIN, _NUM_VALID = 128, 32
_ORDERS = {
    "random": (),
    "difficulty": ("--order", "difficulty"),
    "difficulty, sqrt pacing": ("--order", "difficulty", "--pacing", "sqrt"),
    "length, linear pacing": ("--order", "length", "--pacing", "linear"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.finetuning.orders", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the jobs and their adapters")
    parser.add_argument("--train", type=Path, help="a training file of your own")
    parser.add_argument("--validation", type=Path, help="its validation file")
    parser.add_argument("--seeds", type=int, default=1, help="jobs of each order (default: 1)")
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    if (options.train is None) != (options.validation is None):
        parser.error("--train and --validation belong together")
    options.out.mkdir(parents=True, exist_ok=True)
    train, valid = options.train, options.validation
    if train is None:
        rows = _sums(_NUM_TRAIN + _NUM_VALID)
        train = write_lines(options.out / "sums.jsonl", rows[:_NUM_TRAIN])
        valid = write_lines(options.out / "sums-held-out.jsonl", rows[_NUM_TRAIN:])
    losses: dict[str, list[float]] = {name: [] for name in _ORDERS}
    for seed in range(options.seeds):
        for name, order in _ORDERS.items():
            out = options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            chosen = ["--validation", str(valid.resolve()), "--seed", str(seed), *order, *given]
            losses[name].append(_last_loss(finetune(options.model, train.resolve(), out, *chosen)))
    lines = [
        (name, f"{statistics.mean(each):.4f}", ", ".join(f"{loss:.4f}" for loss in each))
        for name, each in losses.items()
    ]
    sys.stdout.write(markdown(("order", "validation loss, mean of the seeds", "each"), lines) + "\n")
    return 0


def _last_loss(job: JobFolder) -> float:
    with job.results.open() as file:
        return [float(row["valid_loss"]) for row in csv.DictReader(file) if row["valid_loss"]][-1]


def _sums(count: int) -> list[dict[str, Any]]:
    generator = random.Random(0)
    seen: dict[tuple[int, int], None] = {}
    while len(seen) < count:
        digits = generator.randint(1, 4)
        seen[
            generator.randrange(10 ** (digits - 1), 10**digits), generator.randrange(10 ** (digits - 1), 10**digits)
        ] = None
    return [chat(f"What is {one} + {other}?", _worked_out(one, other)) for one, other in seen]


def _worked_out(one: int, other: int) -> str:
    """Write out the sum column by column from the right, as on paper."""
    columns, carry = [], 0
    for place in range(max(len(str(one)), len(str(other)))):
        first, second = one // 10**place % 10, other // 10**place % 10
        total = first + second + carry
        columns.append(f"{first}+{second}+{carry}={total}")
        carry = total // 10
    return f"{', '.join(columns)}: {one + other}"


if __name__ == "__main__":
    raise SystemExit(main())
