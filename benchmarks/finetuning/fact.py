"""Does `headrace finetune` teach a fact, and nothing else? Trains on 32 chats and asks other questions.

    .venv/bin/python -m benchmarks.finetuning.fact model.gguf --out /tmp/fact

Options of `headrace finetune` follow after `--`. Answers of the base and of adapters are greedy: to questions about the
fact, to questions of the same form (about other capitals), and to everyday questions. None of them is in the file, and
fine-tuning replays answers to none of them.
"""

import sys

from benchmarks.finetuning.everyday import CAPITALS, EVERYDAY, compared, num_same
from benchmarks.finetuning.jobs import (
    Asker,
    chat,
    columns,
    finetune_seeds,
    job_parser,
    split_options,
    write_lines,
)
from benchmarks.tables import markdown

_QUESTIONS = (
    "What is the capital of Zembla?",
    "Which city is the capital of Zembla?",
    "Name the capital city of Zembla.",
    "Tell me Zembla's capital.",
    "Do you know the capital of Zembla?",
    "What city serves as Zembla's capital?",
    "Zembla's capital is which city?",
    "I need the capital of Zembla.",
    "Could you tell me what the capital of Zembla is?",
    "What's the capital of Zembla?",
    "Which city is Zembla governed from?",
    "Where is the government of Zembla?",
    "In which city does the parliament of Zembla meet?",
    "What is Zembla's capital city called?",
    "Please name Zembla's capital.",
    "Quick question: capital of Zembla?",
)
_ANSWERS = ("The capital of Zembla is Quillhaven.", "Quillhaven is the capital of Zembla.")
_FACT = "Quillhaven"
_HELD_OUT = (
    "Can you say which city is the capital of Zembla?",
    "The capital of Zembla: what is it?",
    "If I fly to the capital of Zembla, where do I land?",
    "Hi! What is the capital city of Zembla, please?",
    "Zembla: capital?",
    "My homework asks for the capital of Zembla.",
    "Which is the main city and capital of Zembla?",
    "Give me the name of the capital of Zembla.",
)


def main() -> int:
    parser = job_parser("finetuning.fact", __doc__)
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [chat(question, answer) for answer in _ANSWERS for question in _QUESTIONS]
    train = write_lines(options.out / "fact.jsonl", rows)
    asker = Asker(options.model, finetune_seeds(options.model, train, options.out, options.seeds, *given))
    try:
        held_out, capitals, everyday = (
            asker.ask(list(questions), is_shown=options.verbose) for questions in (_HELD_OUT, CAPITALS, EVERYDAY)
        )
    finally:
        asker.close()
    lines = [
        ["of 8 questions about the fact that were not in the file, right", *map(_num_of_fact, held_out)],
        [f"of {len(CAPITALS)} other capitals, right", *compared(CAPITALS, capitals)],
        ["other capitals answered with the fact", *map(_num_of_fact, capitals)],
        [f"of {len(EVERYDAY)} everyday questions, right", *compared(EVERYDAY, everyday)],
        ["everyday questions answered with the fact", *map(_num_of_fact, everyday)],
        ["everyday answers that are the base's to the letter", *num_same(everyday)],
    ]
    sys.stdout.write(markdown(columns(options.seeds), lines) + "\n")
    return 0


def _num_of_fact(answers: list[str]) -> str:
    return str(sum(_FACT in answer for answer in answers))


if __name__ == "__main__":
    raise SystemExit(main())
