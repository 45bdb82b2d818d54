"""From seeds or documents to a measured adapter: a model makes lines, they are prepared, a job trains on them, and a
grader measures the model before and after on prompts that were held out.

The server needs --enable-lora and --data-dir, and `headrace` must be on the PATH. After an interruption, the same
command continues: it computes no line, job or measurement twice.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

LEAST_LINES = 10  # of a job


def main() -> None:
    parser = common_arguments(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--recipe", help="recipe of headrace synthesize: a name or a file; needs --input")
    source.add_argument("--lines-from", type=Path, help="lines that exist, instead of a recipe")
    parser.add_argument("--compare-unprepared", action="store_true", help="train on the unprepared lines as well")
    given = parser.parse_args()
    client, model = connect(given)
    held_out, grader = read_measure(client, given)
    folder: Path = given.folder
    made = given.lines_from or synthesize(client, model, given, folder / "made.jsonl")
    prepared = prepare(made, folder / "prepared.jsonl", given)
    report: dict[str, Any] = {"grader": grader["name"], "lines": {}}
    report["before"] = measured("before", client, model, held_out, grader, given)
    files = {"after": prepared, **({"unprepared": made} if given.compare_unprepared else {})}
    for name, path in files.items():
        report["lines"][name] = len(read_lines(path))
        adapter = train(client, model, path, name, given.hyperparameters)
        report[name] = measured(name, client, adapter, held_out, grader, given)
        report[name]["gain"] = gain(report["before"]["rewards"], report[name]["rewards"])
    write_report(report, folder)
    print_report(report)


def common_arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", nargs="+", default=[], help="seeds, prompts or documents of the recipe")
    add("--lines", type=int, default=40, help="lines to make (40)")
    add("--held-out", type=Path, required=True, help="chats or prompts to measure with; nothing of them is trained on")
    add("--grader", type=Path, required=True, help="JSON of a grader; it may read {{item.answer}}, the last of a chat")
    add("--folder", type=Path, default=Path("loop"), help="for all files that are made (loop)")
    add("--model", help="the first one that the server lists")
    add("--max-tokens", type=int, default=128, help="of an answer that is measured (128)")
    add("--hyperparameters", type=json.loads, default={}, help="of the job, as JSON")
    add("prepare", nargs="*", help="after --: options of headrace data prepare")
    return parser


def connect(given: argparse.Namespace) -> tuple[OpenAI, str]:
    """Return a client of the server, and the model's name."""
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    try:
        models = client.models.list().data
    except APIConnectionError as error:
        raise SystemExit(
            f"no server answers at {base_url} ({error.__cause__ or error}); start one with --enable-lora and "
            "--data-dir, or set OPENAI_BASE_URL"
        ) from None
    except APIStatusError as error:
        raise SystemExit(f"{base_url} answers {error.status_code}: {error.message}; see OPENAI_API_KEY") from None
    given.folder.mkdir(parents=True, exist_ok=True)
    return client, given.model or models[0].id


def read_measure(client: OpenAI, given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the held-out lines and the grader, which the server has checked."""
    grader = json.loads(given.grader.read_text(encoding="utf-8"))
    client.fine_tuning.alpha.graders.validate(grader=grader)
    lines = read_lines(given.held_out)
    if not lines or not all(line.get("messages") for line in lines):
        raise SystemExit(f"{given.held_out} has no lines, or one without messages; give chats or prompts, one a line")
    return lines, grader


def synthesize(client: OpenAI, model: str, given: argparse.Namespace, out: Path, *options: str) -> Path:
    """Make lines with the served model as batches, which give way to clients."""
    server = str(client.base_url).rstrip("/").removesuffix("/v1")
    key = {"HEADRACE_CLIENT_KEY": client.api_key} if client.api_key != "none" else {}
    wanted = ("--model", model, "--lines", str(given.lines), "--input", *given.input, *options)
    command = ("synthesize", given.recipe, "--server", server, *wanted, *against(given.held_out))
    # 3: it stopped before it had all lines, and has said why. Those that there are may be enough.
    headrace(*command, out=out, env=key, also=3)
    return with_enough_lines(out)


def prepare(lines: Path, out: Path, given: argparse.Namespace) -> Path:
    """Remove duplicates, low quality and what the held-out prompts contain."""
    options = ("--report", str(out.with_suffix(".json")), *against(given.held_out), *given.prepare)
    headrace("data", "prepare", str(lines), *options, out=out)
    return with_enough_lines(out)


def with_enough_lines(path: Path) -> Path:
    if (num := len(read_lines(path))) < LEAST_LINES:
        raise SystemExit(f"{path} has {num} lines, and a job needs {LEAST_LINES}; give larger --lines or more --input")
    return path


def against(held_out: Path) -> tuple[str, str]:
    return "--against", str(held_out)


def headrace(*command: str, out: Path, env: dict[str, str] | None = None, also: int = 0) -> None:
    program = shutil.which("headrace")
    if program is None:
        raise SystemExit("headrace is not on the PATH; activate the environment in which it is installed")
    line = [program, *command, "--out", str(out)]
    print("$", *line)
    code = subprocess.run(line, env={**os.environ, **(env or {})}, check=False).returncode
    if code not in (0, also):
        raise SystemExit(f"headrace {command[0]} ended with exit code {code}; it has said why")


def train(client: OpenAI, model: str, lines: Path, suffix: str, hyperparameters: dict[str, Any]) -> str:
    """Train an adapter; return its name. Pairs of a better and a worse answer are for DPO. A job that an interrupted
    run started with the same lines and settings is found by its metadata."""
    method = "dpo" if "input" in read_lines(lines)[0] else "supervised"
    settings: Any = {"type": method, method: {"hyperparameters": hyperparameters}}
    label = {"loop": digest(model, suffix, settings, lines.read_text(encoding="utf-8"))}
    known = (
        each for each in client.fine_tuning.jobs.list(metadata=label) if each.status not in ("failed", "cancelled")
    )
    if (job := next(known, None)) is None:
        file = client.files.create(file=lines, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=model, training_file=file.id, method=settings, suffix=suffix, seed=1, metadata=label
        )
    print(f"{job.id}: {method} on {lines}")
    while job.finished_at is None:
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise SystemExit(f"the job has {job.status}: {job.error}")
    return job.fine_tuned_model


def measured(
    name: str,
    client: OpenAI,
    model: str,
    lines: Sequence[dict[str, Any]],
    grader: dict[str, Any],
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Measure, or return what an interrupted run has measured by the same model, lines, grader and length."""
    path: Path = given.folder / f"measured-{name}.json"
    label = digest(model, list(lines), grader, given.max_tokens)
    if path.exists() and (stored := json.loads(path.read_text(encoding="utf-8")))["label"] == label:
        found: dict[str, Any] = stored["found"]
        return found
    found = measure(client, model, lines, grader, given.max_tokens)
    write_json({"label": label, "found": found}, path)
    return found


def digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def measure(
    client: OpenAI, model: str, lines: Sequence[dict[str, Any]], grader: dict[str, Any], max_tokens: int
) -> dict[str, Any]:
    """Return the model's greedy answers to the lines, and their rewards."""

    def one(line: dict[str, Any]) -> tuple[str, float]:
        *messages, last = line["messages"]
        if last["role"] != "assistant":  # a prompt, not a chat
            messages.append(last)
        completion = client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_completion_tokens=max_tokens
        )
        answer = completion.choices[0].message.content or ""
        item = {**line, "answer": last["content"]}
        return answer, client.fine_tuning.alpha.graders.run(grader=grader, item=item, model_sample=answer).reward  # type: ignore[arg-type]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, lines))
    answers, rewards = zip(*found, strict=True)
    return {"model": model, "mean": fmean(rewards), "rewards": rewards, "answers": answers}


def gain(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Return the mean difference of the rewards, and its standard error."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("inf")
    return {"mean": fmean(differences), "standard_error": error}


def write_report(report: dict[str, Any], folder: Path) -> None:
    write_json(report, folder / "report.json")


def write_json(value: dict[str, Any], path: Path) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def print_report(report: dict[str, Any]) -> None:
    before = report["before"]
    print(f"\nreward by {report['grader']} on {len(before['rewards'])} held-out prompts")
    print(f"before      {before['mean']:.3f}  {before['model']}")
    for name, num_lines in report["lines"].items():
        found, more = report[name], report[name]["gain"]
        # Twice the standard error is about the border of what could be chance.
        verdict = "" if abs(more["mean"]) > 2 * more["standard_error"] else ", which may be chance"
        difference = f"{more['mean']:+.3f} ± {more['standard_error']:.3f}{verdict}"
        print(f"{name:11} {found['mean']:.3f}  {found['model']}, {num_lines} lines: {difference}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): texts may have U+2028 and other signs at which it would split a line of JSON.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


if __name__ == "__main__":
    main()
