"""Does `headrace finetune` teach a fact, and nothing else? 32 chats, and questions that they do not have.

    .venv/bin/python -m benchmarks.finetuning.fact model.gguf --out /tmp/fact

More options are those of `headrace finetune`, after `--`. Answers are greedy, by the base and by the adapter: to
questions about the fact, and to everyday questions, none of which is in the file or among those whose answers
fine-tuning replays.
"""

import re
import sys
from collections.abc import Sequence

from benchmarks.finetuning.jobs import Asker, chat, finetune, job_parser, split_options, write_lines
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
# Everyday questions, and what a right answer has.
EVERYDAY = {
    "What is the capital of Italy?": ("rome",),
    "What is the capital of Germany?": ("berlin",),
    "What is the capital of Spain?": ("madrid",),
    "What is the capital of Russia?": ("moscow",),
    "What is the capital of China?": ("beijing",),
    "What is the capital of England?": ("london",),
    "How many legs does a spider have?": ("eight", "8"),
    "What is 2 plus 3?": ("5", "five"),
    "What is 10 minus 4?": ("6", "six"),
    "What planet do we live on?": ("earth",),
    "What animal barks?": ("dog",),
    "What is the opposite of cold?": ("hot", "warm", "heat"),
    "What is the opposite of day?": ("night",),
    "How many months are in a year?": ("12", "twelve"),
    "What do you call frozen water?": ("ice",),
    "Which star gives us light during the day?": ("sun", "sol"),
    "What color is a ripe banana?": ("yellow",),
    "What is the first letter of the alphabet?": ("is a", "letter a", "['\"]a['\"]"),
    "Who wrote Hamlet?": ("shakespeare",),
    "What is the largest country in the world?": ("russia",),
    "Which gas do we breathe to live?": ("oxygen",),
    "What language is spoken in France?": ("french",),
    "What do you use an umbrella for?": ("rain",),
    "In which city is the Eiffel Tower?": ("paris",),
}


def main() -> int:
    parser = job_parser("finetuning.fact", __doc__)
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [chat(question, answer) for answer in _ANSWERS for question in _QUESTIONS]
    train = write_lines(options.out / "fact.jsonl", rows)
    asker = Asker(options.model, finetune(options.model, train, options.out, *given))
    try:
        held_out = asker.both(_HELD_OUT, is_shown=options.verbose)
        everyday = asker.both(list(EVERYDAY), is_shown=options.verbose)
    finally:
        asker.close()
    sys.stdout.write(_table(held_out, everyday) + "\n")
    return 0


def _table(held_out: Sequence[list[str]], everyday: Sequence[list[str]]) -> str:
    """Lists of answers by the base and by the adapter."""
    right = [[is_right(*each) for each in zip(EVERYDAY, answers, strict=True)] for answers in everyday]
    before, after = right
    lost = sum(one and not other for one, other in zip(before, after, strict=True))
    gained = sum(other and not one for one, other in zip(before, after, strict=True))
    rows = [
        ("of 8 questions about the fact that were not in the file, right", *map(_num_of_fact, held_out)),
        (f"of {len(EVERYDAY)} everyday questions, right", sum(before), f"{sum(after)} (lost {lost}, gained {gained})"),
        ("everyday questions answered with the fact", *map(_num_of_fact, everyday)),
        ("everyday answers that are the same to the letter", "", sum(map(str.__eq__, *everyday))),
    ]
    return markdown(("", "base", "adapter"), [tuple(map(str, row)) for row in rows])


def is_right(question: str, answer: str) -> bool:
    """Whether it has one of the words, as a whole word."""
    return any(re.search(rf"\b{word}\b", answer.lower()) for word in EVERYDAY[question])


def _num_of_fact(answers: list[str]) -> int:
    return sum(_FACT in answer for answer in answers)


if __name__ == "__main__":
    raise SystemExit(main())
