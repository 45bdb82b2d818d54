"""CompileLanes with trials that do what their grammar's text says, and nothing by the clock."""

import queue
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar.lanes import MAX_FAST, MAX_SLOW, Compilation, CompileLanes, CompileOutcome, GrammarKey
from engine.grammar.trial import Trial
from tests.helpers.grammars import ledger_vocabulary

pytestmark = pytest.mark.fast

PATIENCE_S = 0.125  # scripts know the fast lane's question by this number; no test waits so long
TIMEOUT_S = 8.0


class ScriptedTrial:
    """A text that begins with "quick" is done at once; "slow" when it is released; "late" never; "dead" dies."""

    def __init__(self, text: str, released: threading.Event) -> None:
        self.text = text
        self._released = released
        self._killed = threading.Event()
        self.has_given_way = False
        self.has_ended = False
        self.timeouts_s: list[float] = []

    def reply(self, timeout_s: float) -> Trial | None:
        self.timeouts_s.append(timeout_s)
        if self.text.startswith("quick"):
            return Trial("", 0.001)
        if self.text.startswith("dead"):
            raise EOFError
        if timeout_s == PATIENCE_S:
            return None
        assert self._released.wait(60)
        if self._killed.is_set():
            raise EOFError
        return None if self.text.startswith("late") else Trial("", 3.0)

    def lower_priority(self) -> None:
        self.has_given_way = True

    def kill(self) -> None:
        self._killed.set()
        self._released.set()

    def end(self) -> None:
        assert not self.has_ended
        self.has_ended = True


class ScriptedTrials:
    def __init__(self) -> None:
        self.released = threading.Event()  # all of them
        self.started: list[ScriptedTrial] = []
        self.idle: list[ScriptedTrial] = []
        self._lock = threading.Lock()
        self._of_text: dict[str, threading.Event] = {}

    def start(self, grammar: str) -> ScriptedTrial:
        with self._lock:
            trial = ScriptedTrial(grammar, self._of_text.setdefault(grammar, threading.Event()))
            self.started.append(trial)
            if self.released.is_set():
                self._of_text[grammar].set()
        return trial

    def put_back(self, process: ScriptedTrial) -> None:
        self.idle.append(process)

    def release(self) -> None:
        with self._lock:
            self.released.set()
            for event in self._of_text.values():
                event.set()

    def of(self, text: str) -> list[ScriptedTrial]:
        return [trial for trial in self.started if trial.text == text]

    @property
    def num_running(self) -> int:
        return sum(not trial.has_ended for trial in self.started) - len(self.idle)


class LanesRun:
    def __init__(self) -> None:
        self.trials = ScriptedTrials()
        self.done: queue.SimpleQueue[Compilation] = queue.SimpleQueue()
        self.lanes: CompileLanes[ScriptedTrial] = CompileLanes(
            self.trials,
            lambda _: ledger_vocabulary().matcher('{"grammars": [{"lark_grammar": "start: /[abc]/"}]}'),
            timeout_s=TIMEOUT_S,
            on_done=self.done.put,
            patience_s=PATIENCE_S,
        )

    def submit(self, *texts: str) -> None:
        for text in texts:
            self.lanes.submit(GrammarKey("", text))

    def outcomes(self, number: int) -> dict[str, CompileOutcome]:
        """The outcomes of the next grammars to be done."""
        compilations = [self.done.get(timeout=60) for _ in range(number)]
        return {each.key.text: each.outcome for each in compilations}

    def close(self) -> None:
        self.trials.release()
        self.lanes.close()


@pytest.fixture
def run() -> Iterator[LanesRun]:
    run = LanesRun()
    yield run
    run.close()


SLOW = [f"slow{index}" for index in range(2 * (MAX_FAST + MAX_SLOW))]


def test_slow_grammars_do_not_hold_up_a_quick_one(run: LanesRun) -> None:
    run.submit(*SLOW, "quick")
    assert run.outcomes(1) == {"quick": CompileOutcome.COMPILED}
    run.trials.release()
    assert run.outcomes(len(SLOW)) == dict.fromkeys(SLOW, CompileOutcome.COMPILED)


def test_slow_grammars_have_a_bounded_number_of_processes(run: LanesRun) -> None:
    run.submit(*SLOW)
    run.submit(*(f"quick{index}" for index in range(MAX_FAST)))
    run.outcomes(MAX_FAST)  # all slow ones have left the fast lane by now, or are about to
    run.lanes._fast.shutdown()
    assert run.trials.num_running <= MAX_SLOW
    run.trials.release()
    run.outcomes(len(SLOW))
    assert all(trial.has_ended for text in SLOW for trial in run.trials.of(text))


def test_a_slow_grammar_goes_on_in_its_process_which_gives_way_and_is_not_used_again(run: LanesRun) -> None:
    run.submit("slow")
    run.trials.release()
    assert run.outcomes(1) == {"slow": CompileOutcome.COMPILED}
    (trial,) = run.trials.of("slow")
    assert trial.timeouts_s == [PATIENCE_S, TIMEOUT_S - PATIENCE_S]
    assert trial.has_given_way
    assert trial.has_ended
    assert trial not in run.trials.idle


def test_a_slow_grammar_without_a_place_begins_again_with_all_its_time(run: LanesRun) -> None:
    run.submit(*SLOW, "quick")
    run.outcomes(1)
    run.lanes._fast.shutdown()
    run.trials.release()
    run.outcomes(len(SLOW))
    started_again = [run.trials.of(text) for text in SLOW if len(run.trials.of(text)) > 1]
    assert len(started_again) == len(SLOW) - MAX_SLOW
    assert all(second.timeouts_s == [TIMEOUT_S] and second.has_given_way for _, second in started_again)


def test_a_quick_grammars_process_is_used_again(run: LanesRun) -> None:
    run.submit("quick")
    run.outcomes(1)
    (trial,) = run.trials.idle
    assert not trial.has_given_way
    assert not trial.has_ended


def test_a_grammar_that_is_not_done_in_time_is_refused(run: LanesRun) -> None:
    run.trials.release()
    run.submit("late")
    done = run.done.get(timeout=60)
    assert done.outcome is CompileOutcome.TIMEOUT
    assert "not compiled within 8 s (--grammar-compile-timeout)" in done.error


def test_a_grammar_whose_process_dies_is_refused(run: LanesRun) -> None:
    run.submit("dead")
    done = run.done.get(timeout=60)
    assert done.outcome is CompileOutcome.INVALID
    assert "more memory or depth" in done.error


def test_what_runs_in_the_slow_lane_can_be_canceled(run: LanesRun) -> None:
    run.submit("slow")
    while not (run.trials.started and len(run.trials.started[0].timeouts_s) == 2):
        threading.Event().wait(0.001)
    run.lanes.cancel(GrammarKey("", "slow"))
    assert run.outcomes(1) == {"slow": CompileOutcome.CANCELED}


def test_what_waits_for_the_slow_lane_can_be_canceled(run: LanesRun) -> None:
    run.submit(*SLOW[:-1])
    run.submit("slow-last", "quick")
    run.outcomes(1)
    run.lanes._fast.shutdown()
    run.lanes.cancel(GrammarKey("", "slow-last"))
    run.trials.release()
    assert run.outcomes(len(SLOW))["slow-last"] is CompileOutcome.CANCELED
    assert len(run.trials.of("slow-last")) == 1


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["quick", "slow", "late", "dead"]), max_size=20),
    cancelled=st.sets(st.integers(0, 19)),
    released_after=st.integers(0, 20),
)
def test_each_grammar_ends_once_and_leaves_no_process(
    kinds: list[str], cancelled: set[int], released_after: int
) -> None:
    run = LanesRun()
    texts = [f"{kind}{index}" for index, kind in enumerate(kinds)]
    for index, text in enumerate(texts):
        run.submit(text)
        if index in cancelled:
            run.lanes.cancel(GrammarKey("", text))
        if index == released_after:
            run.trials.release()
    run.trials.release()
    outcomes = run.outcomes(len(texts))
    run.close()
    assert set(outcomes) == set(texts)
    assert run.done.empty()
    assert run.trials.num_running == 0
    possible = {
        "quick": CompileOutcome.COMPILED,
        "slow": CompileOutcome.COMPILED,
        "late": CompileOutcome.TIMEOUT,
        "dead": CompileOutcome.INVALID,
    }
    for index, text in enumerate(texts):
        assert outcomes[text] in {possible[kinds[index]]} | ({CompileOutcome.CANCELED} if index in cancelled else set())
