"""Tally: what became of each request, as its client saw it."""

import enum
import json
from collections import Counter
from typing import Any


class Outcome(enum.StrEnum):
    COMPLETED = "completed"
    REFUSED = "refused"  # the client's own fault: 4xx
    FAILED = "failed"  # 500, or an error event in a stream
    UNAVAILABLE = "unavailable"  # 503 or 429
    CUT = "cut"  # the client went away
    BROKEN = "broken"  # no answer, or one that breaks off without an end: never right


class Tally:
    """Counts of all requests, and the texts that must be the same each time."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, Outcome]] = Counter()  # by scenario
        self.answers: Counter[tuple[str, str, int]] = Counter()  # method, route and status of whole answers
        self.num_cut: Counter[tuple[str, str]] = Counter()  # method and route of the others
        self.completion_tokens = 0  # of completed requests that tell their usage
        self.wrong: list[str] = []  # what no answer may be
        self._texts: dict[str, str] = {}

    def note(self, scenario: str, outcome: Outcome) -> None:
        self.outcomes[scenario, outcome] += 1

    def total(self, outcome: Outcome) -> int:
        return sum(count for (_, each), count in self.outcomes.items() if each is outcome)

    def check_text(self, body: dict[str, Any], text: str) -> None:
        """Greedy and seeded requests have one text, whatever happens beside them."""
        key = json.dumps({name: value for name, value in body.items() if name not in ("stream", "resumable")})
        if self._texts.setdefault(key, text) != text:
            self.wrong.append(f"{key} said {self._texts[key]!r} and then {text!r}")
