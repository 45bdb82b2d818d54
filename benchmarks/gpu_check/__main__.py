"""Check and measure headrace on a GPU: `python -m benchmarks.gpu_check --out FOLDER [--budget S] [--only STAGE ...]`.

Each stage runs in a process of its own with a time limit, so that a crash or a hang costs one stage. Its figures are
saved as they come, the results of all stages after each stage, and the table is printed last. With --tiny, the stages
that make sense without a GPU run on the CPU in their smallest sizes, to find mistakes before a GPU is at hand.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu_check.figures import Figure, StageResult, load_figures, save_figures, save_json, table
from benchmarks.gpu_check.stages import STAGES, Context, Stage

_LEAST_S = 5.0  # of the budget, for a stage to be tried


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    device = torch.device("cpu" if options.tiny else options.device)
    if options.child is not None:
        (stage,) = [each for each in STAGES if each.name == options.child]
        _run_here(stage, device, is_tiny=options.tiny, path=Path(options.out))
        return 0
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", str(device)]
    command += ["--tiny"] if options.tiny else []
    results = run_stages(chosen_stages(options.only, is_tiny=options.tiny), folder, options.budget, command)
    sys.stdout.write(table(results) + "\n")
    return 0 if all(not each.ending and "FAIL" not in {f.verdict for f in each.figures} for each in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu_check", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("--out", default="gpu_check", metavar="FOLDER", help="folder for JSON and logs")
    parser.add_argument("--budget", type=float, default=540.0, metavar="S", help="seconds in all (default: 540)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=f"stages: {', '.join(names)}")
    parser.add_argument("--device", default="cuda:0", help="device to check (default: cuda:0)")
    parser.add_argument("--tiny", action="store_true", help="dry run on the CPU")
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)
    return parser


def chosen_stages(only: Sequence[str] | None, *, is_tiny: bool) -> list[Stage]:
    """Return the stages to run: the ones that --only names, or all; with --tiny none that needs a GPU."""
    chosen = [stage for stage in STAGES if only is None or stage.name in only]
    return [stage for stage in chosen if not (is_tiny and stage.needs_gpu)]


def run_stages(stages: Iterable[Stage], folder: Path, budget_s: float, command: Sequence[str]) -> list[StageResult]:
    """Run each stage in a process, as far as the budget lasts; save all results after each.

    command: of a stage's process, without the stage's name and the file for its figures.
    """
    end_s = time.monotonic() + budget_s
    results: list[StageResult] = []
    for stage in stages:
        left_s = end_s - time.monotonic()
        if left_s < _LEAST_S:
            results.append(StageResult(stage.name, ending="not run: the budget is spent"))
        else:
            results.append(_run_stage(stage, folder, min(stage.limit_s, left_s), command))
        save_json(folder / "results.json", [dataclasses.asdict(each) for each in results])
    return results


def _run_stage(stage: Stage, folder: Path, limit_s: float, command: Sequence[str]) -> StageResult:
    """Run a stage's process; kill it and all that it started after `limit_s`."""
    name = stage.name.replace(" ", "_")
    path, log = folder / f"{name}.json", folder / f"{name}.log"
    path.unlink(missing_ok=True)
    started_s = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--child", stage.name, "--out", str(path)],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
            ending = "" if code == 0 else f"ended with {code}; see {log.name}"
        except subprocess.TimeoutExpired:
            ending = f"killed after {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return StageResult(stage.name, time.monotonic() - started_s, ending, load_figures(path))


def _run_here(stage: Stage, device: torch.device, *, is_tiny: bool, path: Path) -> None:
    """Run a stage in this process; save its figures whenever there is another."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
        for figure in stage.load()(Context(device, Path(folder), is_tiny)):
            figures.append(figure)
            save_figures(path, figures)


if __name__ == "__main__":
    sys.exit(main())
