"""Held-out loss of training on raw lines with planted junk, and on what `headrace data prepare` leaves of them.

    .venv/bin/python -m benchmarks.data.training model.gguf --out /tmp/training --seeds 3

Lines are parts of Python's reference. Six tenths of the raw file are junk: near duplicates, refusals, loops, answers
that are cut off or repeat their question, letters of a wrong encoding, and other languages. The raw file is trained on
for one epoch, the prepared one for two, which is about as many steps. Held-out lines have no faults.
Options of `headrace finetune` follow after `--`.
"""

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.data.planted import chat, english, planted, without_copies
from benchmarks.data.sentences import OTHERS
from benchmarks.finetuning.jobs import ROOT, finetune, job_parser, split_options, write_lines
from benchmarks.tables import markdown
from server.finetuning.scaling.points import held_out_losses

_NUM_CLEAN, _NUM_JUNK, _NUM_HELD_OUT, _NUM_FRESH = 72, 108, 24, 60
_SENTENCES = 1  # of an answer
_LANGUAGE = "language"
_KINDS = (
    *("near_duplicate 4%", "near_duplicate 10%", "chat_refusal", "chat_cut_off", "chat_repetition", "chat_echo"),
    *("chat_mojibake", _LANGUAGE),
)
_OPTIONS = ("--batch-size", "4", "--replay", "0", "--threads", "1")
_EPOCHS = {"raw": "1", "prepared": "2"}


def main() -> int:
    parser = job_parser("data.training", __doc__)
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    rows, differences = [], []
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        raw, valid = write_files(folder, seed)
        prepared = _prepared(raw, valid, folder)
        losses = []
        for path in (raw, prepared):
            chosen = (
                *_OPTIONS,
                "--n-epochs",
                _EPOCHS[path.stem],
                "--validation",
                str(valid),
                "--seed",
                str(seed),
                *given,
            )
            losses.append(held_out_losses(finetune(options.model, path, folder / path.stem, *chosen)))
        before, (raw_loss, prepared_loss) = losses[0][0], (each[-1] for each in losses)
        differences.append(prepared_loss - raw_loss)
        counts = [str(len(path.read_bytes().splitlines())) for path in (raw, prepared)]
        figures = (f"{each:.4f}" for each in (before, raw_loss, prepared_loss, differences[-1]))
        rows.append((str(seed), *counts, *figures))
    heads = ("seed", "raw lines", "prepared lines", "loss before", "trained on raw", "on prepared", "difference")
    sys.stdout.write(markdown(heads, rows) + "\n")
    sys.stdout.write(f"mean difference {statistics.mean(differences):+.4f}\n")
    return 0


def write_files(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write the raw and the held-out lines; return their paths."""
    draw = random.Random(seed)
    lines = [(question, _short(answer)) for question, answer in without_copies(english(draw))]
    draw.shuffle(lines)
    held_out, fresh = lines[:_NUM_HELD_OUT], lines[_NUM_HELD_OUT : _NUM_HELD_OUT + _NUM_FRESH]
    clean = lines[_NUM_HELD_OUT + _NUM_FRESH :][:_NUM_CLEAN]
    rows = [chat(*each) for each in clean] + _junk(clean, fresh, draw)
    draw.shuffle(rows)
    raw = write_lines(folder / "raw.jsonl", rows)
    return raw.resolve(), write_lines(folder / "held-out.jsonl", [chat(*each) for each in held_out]).resolve()


def _junk(clean: list[tuple[str, str]], fresh: list[tuple[str, str]], draw: random.Random) -> list[dict[str, Any]]:
    """Return junk lines, as many of each kind."""
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for kind, line in planted("English", clean, fresh, draw):
        if kind in kinds:
            kinds[kind].append(line)
    kinds[_LANGUAGE] = [chat(f"{text[:30]} {number}", f"{number}. {text}") for number in range(20) for text in OTHERS]
    each, more = divmod(_NUM_JUNK, len(_KINDS))
    return [line for place, lines in enumerate(kinds.values()) for line in draw.sample(lines, each + (place < more))]


def _short(answer: str) -> str:
    return ". ".join(answer.removesuffix(".").split(". ")[:_SENTENCES]) + "."


def _prepared(raw: Path, valid: Path, folder: Path) -> Path:
    out = folder / "prepared.jsonl"
    command = ["data", "prepare", str(raw), "--out", str(out), "--report", str(folder / "report.json")]
    options = ["--against", str(valid), "--languages", "en", "--max-removed", "0.9"]
    subprocess.run([sys.executable, "-m", "server.cli", *command, *options], cwd=ROOT, check=True)
    removed = json.loads((folder / "report.json").read_text())["removed"]
    counts = ", ".join(f"{rule} {each['num']}" for rule, each in removed.items())
    sys.stdout.write(f"removed: {counts}\n")
    return out.resolve()


if __name__ == "__main__":
    raise SystemExit(main())
