"""Self-play: round by round, a model answers prompts beside its earlier self, a judge scores the answers, and a DPO job
trains it to prefer the winners. It stops when the share of held-out prompts that it wins against the first model no
longer rises. After SPIN (Chen et al. 2024), whose winners are people's answers, and self-rewarding models (Yuan et al.
2024).

The server needs --enable-lora and --data-dir, and `headrace` must be on the PATH. After an interruption, the same
command continues: it computes no pair, job or measurement twice.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from data_loop import common_arguments, connect, measured, prepare, read_measure, synthesize, train, write_report


def main() -> None:
    parser = common_arguments(__doc__)
    parser.add_argument("--recipe", default="self-play", help="with the variables opponent and judge (self-play)")
    parser.add_argument("--judge", help="a served model that scores the answers (the first player)")
    parser.add_argument("--rounds", type=int, default=3, help="at most (3)")
    given = parser.parse_args()
    client, model = connect(given)
    held_out, grader = read_measure(client, given)
    first = measured("before", client, model, held_out, grader, given)
    report: dict[str, Any] = {"grader": grader["name"], "before": first, "rounds": [], "best": model}
    player, opponent, best_rate = model, model, 0.5
    for number in range(1, given.rounds + 1):
        variables = ("--set", f"opponent={opponent}", "--set", f"judge={given.judge or model}")
        made = synthesize(client, player, given, given.folder / f"round-{number}-made.jsonl", *variables)
        prepared = prepare(made, given.folder / f"round-{number}.jsonl", given)
        trained = train(client, player, prepared, f"round-{number}", given.hyperparameters)
        found = measured(f"round-{number}", client, trained, held_out, grader, given)
        rate = win_rate(found["rewards"], first["rewards"])
        print(
            f"round {number}: {trained} wins {rate:.2f} of the held-out prompts against {model}; before {best_rate:.2f}"
        )
        report["rounds"].append({"player": player, "opponent": opponent, "win_rate": rate, **found})
        if rate <= best_rate:
            print("the share no longer rises")
            break
        player, opponent, best_rate, report["best"] = trained, player, rate, trained
    write_report(report, given.folder)
    print("best:", report["best"])


def win_rate(rewards: Sequence[float], others: Sequence[float]) -> float:
    """Return the share of prompts with the larger reward; equal rewards count as half."""
    return fmean((1 + (own > other) - (own < other)) / 2 for own, other in zip(rewards, others, strict=True))


if __name__ == "__main__":
    main()
