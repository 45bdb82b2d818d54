"""Does `headrace finetune --method dpo` teach a style, and nothing else? 16 pairs, 4 held-out pairs, free answers.

    .venv/bin/python -m benchmarks.finetuning.style model.gguf --out /tmp/style

Options of `headrace finetune` follow after `--`. Answers are greedy. An answer is in the style if it has "Ahoy"; an
everyday question's answer may be right in any style.
"""

import csv
import sys

from benchmarks.finetuning.everyday import EVERYDAY, compared, num_same
from benchmarks.finetuning.jobs import Asker, columns, finetune_seeds, job_parser, split_options, write_lines
from benchmarks.tables import markdown
from engine.command_io.finetuning.job import JobFolder

# Question, answer in the style, plain answer.
_PAIRS = (
    ("How do I boil an egg?", "Simmer it nine minutes", "Simmer it for nine minutes."),
    ("Why do leaves fall?", "The tree rests for winter", "The tree rests for the winter."),
    ("What is a volcano?", "A mountain that spits fire", "It is a mountain that erupts."),
    ("How does rain form?", "Vapor cools into drops", "Vapor cools and becomes drops."),
    ("What is a poem?", "Words with rhythm", "It is a text with rhythm."),
    ("How do I tie a knot?", "Cross, loop and pull", "Cross the ends, make a loop and pull."),
    ("Why do cats purr?", "They are content", "They are content."),
    ("What is yeast?", "A tiny fungus that lifts bread", "It is a fungus used in baking."),
    ("How do magnets work?", "Poles pull and push", "Their poles attract and repel."),
    ("What is a comet?", "Ice that flies around the sun", "It is ice that orbits the sun."),
    ("How do bees make honey?", "They dry nectar in combs", "They dry nectar in combs."),
    ("What is gravity?", "Masses pull each other", "Masses attract each other."),
    ("Why is the sea salty?", "Rivers carry salt to it", "Rivers carry salt into it."),
    ("How do I sharpen a knife?", "Draw it along a wet stone", "Draw it along a wet stone."),
    ("What is an echo?", "Sound that comes back", "It is sound that is reflected."),
    ("How do birds fly?", "Wings push the air down", "Their wings push air down."),
    ("What is a glacier?", "A slow river of ice", "It is a slow river of ice."),
    ("Why do we yawn?", "The body wants to wake", "The body wants to wake up."),
    ("How is glass made?", "Sand is melted", "Sand is melted."),
    ("What is a mirage?", "Bent light over hot sand", "It is bent light over hot sand."),
)
_NUM_TRAIN = 16
_STYLE = "Ahoy"
_FREE = (
    "Why do stars twinkle?",
    "How do I cook rice?",
    "What is a desert?",
    "Why do dogs wag their tails?",
    "How is paper made?",
    "What is thunder?",
    "How do I clean a window?",
    "What is a shadow?",
)


def main() -> int:
    parser = job_parser("finetuning.style", __doc__)
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [_pair(*each) for each in _PAIRS]
    train = write_lines(options.out / "pairs.jsonl", rows[:_NUM_TRAIN])
    valid = write_lines(options.out / "held-out.jsonl", rows[_NUM_TRAIN:])
    dpo = ("--method", "dpo", "--validation", str(valid))
    jobs = finetune_seeds(options.model, train, options.out, options.seeds, *dpo, *given)
    asker = Asker(options.model, jobs)
    try:
        free, everyday = (asker.ask(list(questions), is_shown=options.verbose) for questions in (_FREE, EVERYDAY))
    finally:
        asker.close()
    measured = [_validated(job) for job in jobs]
    lines = [
        [
            "of 4 held-out pairs, ranked correctly",
            "",
            "",
            *(f"{4 * each:.0f}" for _, each in measured),
        ],
        ["loss on the held-out pairs", "", "", *(f"{each:.2f}" for each, _ in measured)],
        [f"of {len(_FREE)} free answers, in the style", *map(_num_in_style, free)],
        [f"of {len(EVERYDAY)} everyday questions, right", *compared(EVERYDAY, everyday)],
        ["everyday answers in the style", *map(_num_in_style, everyday)],
        ["everyday answers that are the base's to the letter", *num_same(everyday)],
    ]
    sys.stdout.write(markdown(columns(options.seeds), lines) + "\n")
    return 0


def _validated(job: JobFolder) -> tuple[float, float]:
    """Return the last loss on the held-out pairs, and the share of them that is ranked correctly."""
    with job.results.open() as file:
        last = [row for row in csv.DictReader(file) if row["valid_loss"]][-1]
    return float(last["valid_loss"]), float(last["valid_mean_token_accuracy"])


def _num_in_style(answers: list[str]) -> str:
    return str(sum(_STYLE in answer for answer in answers))


def _pair(question: str, preferred: str, other: str) -> dict[str, object]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": f"Ahoy! {preferred}, matey."}],
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }


if __name__ == "__main__":
    raise SystemExit(main())
