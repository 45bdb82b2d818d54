"""StepCounts: how many answers of each step passed, and the reasons of the others."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class StepCounts:
    """Answers of one step."""

    passed: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.passed + self.faults.total()


def acceptance_table(counts: dict[str, StepCounts]) -> str:
    """Return a line for each step: its answers, how many passed, and the reasons of the others."""
    width = max(4, *(len(name) for name in counts))
    lines = [f"{'step':{width}}  answers   passed  dropped because"]
    for name, each in counts.items():
        share = f"{each.passed / each.total:.0%}" if each.total else "-"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in each.faults.most_common())
        lines.append(f"{name:{width}}  {each.total:7,}  {each.passed:7,}  {share:>5}  {reasons}".rstrip())
    return "\n".join(lines)
