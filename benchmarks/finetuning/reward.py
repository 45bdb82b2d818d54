"""Does reinforcement raise a reward on prompts that it has not seen, and what does it cost? Names and ages as JSON.

    .venv/bin/python -m benchmarks.finetuning.reward model.gguf --out /tmp/reward

Options of `headrace finetune` follow after `--`. The file has sentences and the facts in them, but no answers to learn
from: through the grader the adapter learns answers that the base gives rarely. Answers that are shown and everyday
questions are greedy; rewards before and after are those of sampled answers.
"""

import itertools
import json
import random
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.finetuning.everyday import EVERYDAY, compared
from benchmarks.finetuning.jobs import Asker, columns, finetune_seeds, job_parser, split_options, write_lines
from benchmarks.tables import markdown
from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.graders.grading import grade_all
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.graders.sample import Sample
from engine.command_io.finetuning.job import JobFolder

_SENTENCES = (
    "My cousin {name} turned {age} last week.",
    "{name} is {age} years old and lives by the sea.",
    "At the age of {age}, {name} bought a boat.",
    "The oldest player, {name}, is {age}.",
    "{name}, a baker, still gets up early at {age}.",
    "We sang for {name}, who is now {age}.",
)
_NAMES = (
    *("Ada", "Bruno", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irma", "Jonas", "Karla", "Leo"),
    *("Mara", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tina", "Viktor"),
)
_HELD_OUT_NAMES = ("Agnes", "Boris", "Carmen", "Dennis", "Edith", "Frank", "Gloria", "Henry")
_NUM_PROMPTS = 48
_EVERYDAY = dict(itertools.islice(EVERYDAY.items(), 24))
_QUESTION = '{sentence}\nWrite the name and the age as JSON with the keys "name" and "age".'
_GRADER: dict[str, Any] = {
    "type": "multi",
    "graders": {
        field: {
            "type": "string_check",
            "name": field,
            "operation": "eq",
            "input": f"{{{{sample.output_json.{field}}}}}",
            "reference": f"{{{{item.{field}}}}}",
        }
        for field in ("name", "age")
    },
    "calculate_output": "0.5 * name + 0.5 * age",
}


def main() -> int:
    parser = job_parser("finetuning.reward", __doc__)
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    held_out = _rows(_HELD_OUT_NAMES, 16, seed=1)
    train = write_lines(options.out / "train.jsonl", _rows(_NAMES, _NUM_PROMPTS, seed=0))
    valid = write_lines(options.out / "valid.jsonl", held_out)
    grader = options.out / "grader.json"
    grader.write_text(json.dumps(_GRADER))
    method = ("--method", "reinforcement", "--grader", str(grader), "--validation", str(valid))
    short = ("--max-completion-tokens", "32")
    jobs = finetune_seeds(options.model, train, options.out, options.seeds, *method, *short, *given)
    asker = Asker(options.model, jobs)
    try:
        answers = asker.ask([row["messages"][-1]["content"] for row in held_out], is_shown=options.verbose)
        everyday = asker.ask(list(_EVERYDAY), is_shown=options.verbose)
    finally:
        asker.close()
    (before, *_), after = zip(*map(_drawn_rewards, jobs), strict=True)
    lines = [
        [
            f"mean reward of answers to {len(held_out)} prompts that were not in the file",
            *(f"{before:.2f}", "", *(f"{reward:.2f}" for reward in after)),
        ],
        ["the same of greedy answers", *(f"{_mean_reward(held_out, each):.2f}" for each in answers)],
        [f"of {len(_EVERYDAY)} everyday questions, right", *compared(_EVERYDAY, everyday)],
    ]
    sys.stdout.write(markdown(columns(options.seeds), lines) + "\n")
    return 0


def _rows(names: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    drawn = random.Random(seed)
    combined = list(itertools.product(_SENTENCES, names))
    rows = []
    for sentence, name in drawn.sample(combined, count):
        age = drawn.randrange(18, 95)
        question = _QUESTION.format(sentence=sentence.format(name=name, age=age))
        rows.append({"messages": [{"role": "user", "content": question}], "name": name, "age": age})
    return rows


def _drawn_rewards(job: JobFolder) -> tuple[float, float]:
    """Return the job's rewards before and after training."""
    (found,) = (event.data for event in parse_events(job.events.read_bytes()) if "before" in event.data)
    return found["before"]["valid_reward"], found["after"]["valid_reward"]


def _mean_reward(rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> float:
    pairs = [(row, Sample(answer)) for row, answer in zip(rows, answers, strict=True)]
    grades = grade_all(parse_grader(_GRADER, "grader"), pairs, lambda _: [])
    return sum(grade.reward for grade in grades) / len(grades)


if __name__ == "__main__":
    raise SystemExit(main())
