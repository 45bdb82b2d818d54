"""FaultPlan: what is due when, and what is refused."""

import pytest

from engine.child_processes.fault_plan import FaultPlan
from engine.errors import OptionError

pytestmark = pytest.mark.fast


def test_faults_are_due_at_their_number_or_at_each_multiple() -> None:
    plan = FaultPlan("step:raise:2, step:hang=0.5:*3, output:corrupt:1")
    due = [[(fault.action, fault.seconds) for fault in plan.due("step")] for _ in range(6)]
    assert due == [[], [("raise", 0.0)], [("hang", 0.5)], [], [], [("hang", 0.5)]]
    assert [fault.action for fault in plan.due("output")] == ["corrupt"]
    assert plan.due("output") == plan.due("logits") == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("step", "point:action:when"),
        ("steps:raise:1", "point:action:when"),
        ("step:nan:1", "logits: nan"),
        ("step:raise:0", "a number from 1"),
        ("step:raise:**2", "a number from 1"),
        ("step:raise:", "a number from 1"),
        ("step:raise:1:2", "point:action:when"),
        ("step:hang:1", "have seconds"),
        ("step:hang=x:1", "have seconds"),
        ("step:hang=-1:1", "have seconds"),
        ("step:hang=inf:1", "have seconds"),
        ("step:raise=1:1", "others have none"),
        ("step:raise:1,", "point:action:when"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        FaultPlan(text)
