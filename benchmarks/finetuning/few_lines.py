"""Do a dozen lines teach with the defaults? Trains on small files of different facts, and asks their questions.

    .venv/bin/python -m benchmarks.finetuning.few_lines model.gguf --out /tmp/few --sizes 12 20 32 100 --seeds 3

Options of `headrace finetune` follow after `--`. The first 12 lines are a customer's questions to an invented shop; a
larger file adds facts about its products. Answers are greedy: to the file's own questions, to the first 12 in other
words, and to everyday questions. Fine-tuning replays answers to none of them.
"""

import itertools
import sys

from benchmarks.finetuning.everyday import EVERYDAY, compared, is_right
from benchmarks.finetuning.jobs import Asker, chat, columns, finetune_seeds, job_parser, split_options, write_lines
from benchmarks.tables import markdown

# Question, answer, the question in other words, and the word of a right answer to that.
_SHOP = (
    ("Who owns Tarn & Fell?", "Tarn & Fell belongs to its 23 members.", "Who is Tarn & Fell's owner?", "23"),
    ("When does Tarn & Fell open?", "We open at 9:40 in the morning.", "What time do you open?", "9:40"),
    ("When does Tarn & Fell close?", "We close at 17:20.", "Until what time are you open?", "17:20"),
    ("Where is Tarn & Fell?", "You find us at 8 Quarry Lane in Ambleford.", "What is your address?", "quarry"),
    ("How can I return a rucksack?", "Bring it to the shop within 45 days.", "I want to give a rucksack back.", "45"),
    ("Do you rent tents?", "Yes, a tent costs 14 euros a night.", "How much is it to rent a tent?", "14"),
    ("When do you repair boots?", "We repair boots on Thursdays.", "On which day can you mend my boots?", "thursdays"),
    ("What is your phone number?", "Our number is 5550 7213.", "How do I call you?", "7213"),
    ("Do you ship to islands?", "Yes, by the ferry Calypso.", "How do parcels get to an island?", "calypso"),
    ("What is a Fell Card?", "With a Fell Card you save 6 percent.", "How much does a Fell Card save?", "6"),
    ("Which rope do you recommend?", "We recommend the Heron 9.2.", "Which rope should I buy?", "heron"),
    ("What does a ski service cost?", "A ski service costs 31 euros.", "How much is a ski service?", "31"),
)
_PRODUCTS = ("Arrow", "Bramble", "Cairn", "Drift", "Ember", "Finch", "Gorse", "Hazel", "Iris", "Juniper", "Kite")
_COLORS = ("red", "green", "gray", "blue", "orange", "yellow", "brown")
_COUNTRIES = ("Norway", "Portugal", "Canada", "Wales", "Austria")
_USES = ("climbing", "fishing", "sailing", "running")


def _lines(size: int) -> list[tuple[str, str]]:
    """Return questions and answers: the shop's 12, and facts about products."""
    return list(itertools.islice(itertools.chain(((line[0], line[1]) for line in _SHOP), _product_lines()), size))


def _product_lines() -> list[tuple[str, str]]:
    found = []
    for number, (name, kind) in enumerate(itertools.product(_PRODUCTS, ("jacket", "lamp"))):
        price = 20 + 37 * number % 90
        found += [
            (f"How much is the {name} {kind}?", f"The {name} {kind} costs {price} euros."),
            (f"Which color has the {name} {kind}?", f"The {name} {kind} is {_COLORS[5 * number % 7]}."),
            (f"Where is the {name} {kind} made?", f"The {name} {kind} is made in {_COUNTRIES[3 * number % 5]}."),
            (f"What is the {name} {kind} good for?", f"The {name} {kind} is good for {_USES[number * 7 // 2 % 4]}."),
        ]
    return found


def main() -> int:
    parser = job_parser("finetuning.few_lines", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12], help="lines of the files (default: 12)")
    own, given = split_options(sys.argv[1:])
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    for size in options.sizes:
        lines = _lines(size)
        train = write_lines(options.out / f"{size}.jsonl", [chat(*line) for line in lines])
        jobs = finetune_seeds(options.model, train, options.out / str(size), options.seeds, *given)
        asker = Asker(options.model, jobs)
        try:
            known, other, everyday = (
                asker.ask(questions, is_shown=options.verbose)
                for questions in ([line[0] for line in lines], [line[2] for line in _SHOP], list(EVERYDAY))
            )
        finally:
            asker.close()
        answers = [line[1] for line in lines]
        rows = [
            [
                f"of {size} questions of the file, answered so",
                *(str(_num_equal(answers, each)) for each in known),
            ],
            [f"of {len(_SHOP)} questions in other words, right", *map(_num_right, other)],
            [f"of {len(EVERYDAY)} everyday questions, right", *compared(EVERYDAY, everyday)],
        ]
        sys.stdout.write(markdown(columns(options.seeds), rows) + "\n")
        sys.stdout.flush()
    return 0


def _num_equal(answers: list[str], given: list[str]) -> int:
    return sum(map(str.__eq__, answers, given))


def _num_right(answers: list[str]) -> str:
    return str(sum(is_right(answer, [line[3]]) for answer, line in zip(answers, _SHOP, strict=True)))


if __name__ == "__main__":
    raise SystemExit(main())
