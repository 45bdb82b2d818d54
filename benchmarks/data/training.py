"""Held-out loss of training on raw lines with planted junk, and on what `headrace data prepare` leaves of them.

    .venv/bin/python -m benchmarks.data.training model.gguf --out /tmp/training --seeds 3

72 lines are parts of Python's reference: a sentence, and the one that follows it. Junk is planted between them, of six
kinds in equal numbers: other languages, broken letters, refusals, answers that repeat the question, answers in a loop,
and near duplicates. It is a half or a third of the raw file. Held out are 24 lines without faults. Four jobs train:

- `raw`: on the raw file;
- `prepared`: on the prepared file for as many epochs, so with fewer steps;
- `same steps`: on the prepared file for as many steps as `raw`, so with as many examples seen, each more often;
- `raw sample`: on lines that are drawn from the raw file, as many as the prepared file has, for as many epochs as
  `prepared`: as many lines, examples seen and steps.

All steps have four examples and begin at the same learning rate. Options of `headrace finetune` follow after `--`.
"""

import json
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.data.planted import chat, english, planted, without_copies
from benchmarks.data.sentences import OTHERS
from benchmarks.finetuning.jobs import ROOT, finetune, job_parser, split_options, write_lines
from benchmarks.tables import markdown
from server.finetuning.scaling.points import held_out_losses

_NUM_CLEAN, _NUM_HELD_OUT, _NUM_FRESH = 72, 24, 60
_BROKEN, _LOOP, _LANGUAGE = "broken letters", "loop", "language"
_PLANTED = ("near_duplicate 10%", "chat_refusal", "chat_echo")  # of the faults of planted.py
_BATCH = 4
_OPTIONS = ("--batch-size", str(_BATCH), "--replay", "0", "--threads", "1")


class Share(NamedTuple):
    """Junk in the raw file, and epochs that give the raw and the prepared file the same number of steps.

    At most 90 steps: with more, `headrace finetune` chooses a lower learning rate.
    """

    num_junk: int
    epochs: int
    prepared_epochs: int


SHARES = {"half": Share(_NUM_CLEAN, 1, 2), "third": Share(_NUM_CLEAN // 2, 2, 3)}


def main() -> int:
    parser = job_parser("data.training", __doc__)
    parser.add_argument("--junk", nargs="+", choices=SHARES, default=list(SHARES), help="its share of the raw file")
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    heads = ("junk", "seed", "before", *(f"{job}: lines, steps" for job in _jobs(SHARES["half"])))
    sys.stdout.write(markdown(heads, []) + "\n")
    differences: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name in options.junk:
        for seed in range(options.seeds):
            folder = options.out / f"{name}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            before, losses, cells = _train(options.model, folder, seed, SHARES[name], given)
            for job in ("prepared", "same steps", "raw sample"):
                against = "prepared" if job == "raw sample" else "raw"
                differences[name, f"{job} - {against}"].append(losses[job] - losses[against])
            sys.stdout.write(f"| {name} | {seed} | {before:.4f} | {' | '.join(cells)} |\n")
            sys.stdout.flush()
    rows = [
        (*names, ", ".join(f"{each:+.4f}" for each in found), f"{statistics.mean(found):+.4f}")
        for names, found in differences.items()
    ]
    sys.stdout.write("\n" + markdown(("junk", "held-out loss", "each seed", "mean"), rows) + "\n")
    return 0


def _jobs(share: Share) -> dict[str, tuple[str, int]]:
    """Return the file and the epochs of each job."""
    return {
        "raw": ("raw", share.epochs),
        "prepared": ("prepared", share.epochs),
        "same steps": ("prepared", share.prepared_epochs),
        "raw sample": ("sample", share.epochs),
    }


def _train(
    model: str, folder: Path, seed: int, share: Share, given: list[str]
) -> tuple[float, dict[str, float], list[str]]:
    """Return the held-out loss before training, that of each job, and a text of each job for the table."""
    raw, valid = write_files(folder, seed, share.num_junk)
    prepared = _prepare(raw, valid, folder)
    lines = raw.read_text(encoding="utf-8").splitlines()
    num_prepared = len(prepared.read_bytes().splitlines())
    write_lines(folder / "sample.jsonl", map(json.loads, random.Random(seed).sample(lines, num_prepared)))
    before, losses, cells = 0.0, {}, []
    for job, (file, epochs) in _jobs(share).items():
        path = folder / f"{file}.jsonl"
        chosen = (*_OPTIONS, "--n-epochs", str(epochs), "--validation", str(valid), "--seed", str(seed))
        done = finetune(model, path.resolve(), folder / job.replace(" ", "-"), *chosen, *given)
        before, losses[job] = held_out_losses(done)
        num_lines = len(path.read_bytes().splitlines())
        cells.append(f"{losses[job]:.4f}: {num_lines}, {epochs * -(-num_lines // _BATCH)}")
    return before, losses, cells


def write_files(folder: Path, seed: int, num_junk: int) -> tuple[Path, Path]:
    """Write the raw and the held-out lines; return their paths."""
    draw = random.Random(seed)
    lines = [(question, f"{answer.split('. ')[0].removesuffix('.')}.") for question, answer in english(draw)]
    lines = without_copies(lines)
    draw.shuffle(lines)
    held_out, fresh = lines[:_NUM_HELD_OUT], lines[_NUM_HELD_OUT : _NUM_HELD_OUT + _NUM_FRESH]
    clean = lines[_NUM_HELD_OUT + _NUM_FRESH :][:_NUM_CLEAN]
    rows = [chat(*each) for each in clean] + _junk(clean, fresh, num_junk, draw)
    draw.shuffle(rows)
    raw = write_lines(folder / "raw.jsonl", rows)
    return raw.resolve(), write_lines(folder / "held-out.jsonl", [chat(*each) for each in held_out]).resolve()


def _junk(
    clean: list[tuple[str, str]], fresh: list[tuple[str, str]], count: int, draw: random.Random
) -> list[dict[str, Any]]:
    """Return junk lines, as many of each kind."""
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _PLANTED}
    for kind, line in planted("English", clean, fresh, draw):
        if kind in kinds:
            kinds[kind].append(line)
    kinds[_BROKEN] = [chat(f"{question} ({number})", _broken(text)) for number, (question, text) in enumerate(fresh)]
    kinds[_LOOP] = [chat(f"{question} {number}", _loop(text)) for number, (question, text) in enumerate(fresh)]
    kinds[_LANGUAGE] = [chat(f"{text[:30]} {number}", f"{number}. {text}") for number in range(20) for text in OTHERS]
    return [line for lines in kinds.values() for line in draw.sample(lines, count // len(kinds))]


def _broken(text: str) -> str:
    """Put each second word in curly quotes, and read the text in the wrong encoding."""
    words = (f"“{word}”" if place % 2 else word for place, word in enumerate(text.split()))
    return " ".join(words).encode().decode("cp1252", "replace")


def _loop(text: str) -> str:
    return f"{' '.join(text.split()[:10])} " * 4 + "."


def _prepare(raw: Path, valid: Path, folder: Path) -> Path:
    out = folder / "prepared.jsonl"
    command = ["data", "prepare", str(raw), "--out", str(out), "--report", str(folder / "report.json")]
    options = ["--against", str(valid), "--languages", "en", "--max-removed", "0.9"]
    subprocess.run([sys.executable, "-m", "server.cli", *command, *options], cwd=ROOT, check=True)
    removed = json.loads((folder / "report.json").read_text())["removed"]
    counts = ", ".join(f"{rule} {each['num']}" for rule, each in removed.items())
    sys.stderr.write(f"removed: {counts}\n")
    return out.resolve()


if __name__ == "__main__":
    raise SystemExit(main())
