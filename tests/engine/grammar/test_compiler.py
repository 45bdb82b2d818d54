"""GrammarCompiler, and an engine that has one, with real trial processes."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.grammar.compiler import GrammarCompiler
from engine.grammar.lanes import Compilation, CompileOutcome, GrammarKey
from engine.protocol import EngineRequest, FinishReason
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.grammars import GRAMMARS, TOO_COMPLEX_LATER, expected_output, ledger_source
from tests.helpers.local_client import LocalClient


def slow_grammar(multiple: int = 1_000_003) -> str:
    """One that takes many seconds."""
    return json.dumps({"grammars": [{"json_schema": {"type": "integer", "multipleOf": multiple}}]})


SLOW = slow_grammar()
INVALID = json.dumps({"grammars": [{"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}]})


class CompilerRun:
    """A compiler, and how to wait for it."""

    def __init__(self, timeout_s: float = 30, cache_bytes: int = 1 << 30) -> None:
        self._compiled = threading.Semaphore(0)
        self.compiler = GrammarCompiler(
            ledger_source(), timeout_s=timeout_s, cache_bytes=cache_bytes, on_compiled=self._compiled.release
        )

    def collect(self) -> list[tuple[str, Compilation]]:
        """Wait for the next grammar; returns the refused ones."""
        assert self._compiled.acquire(timeout=60)
        assert self.compiler.has_compiled
        return self.compiler.collect()

    def compile(self, text: str, sequence_id: str = "r") -> list[tuple[str, Compilation]]:
        assert not self.compiler.start(sequence_id, GrammarKey("", text), appends_forced=True).is_ready
        return self.collect()


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[CompilerRun]:
    run = CompilerRun(**getattr(request, "param", {}))
    yield run
    run.compiler.close()


def test_nothing_is_shared_between_salts(run: CompilerRun) -> None:
    ann, ben, cleo = (GrammarKey(salt, GRAMMARS[0]) for salt in ("ann", "ben", "cleo"))
    waiting = [run.compiler.start("r", key, appends_forced=True) for key in (ann, ben)]
    run.collect()
    if run.compiler.is_compiling:
        run.collect()
    assert all(grammar.is_ready for grammar in waiting)
    assert run.compiler.start("s", ann, appends_forced=True).is_ready
    assert not run.compiler.start("s", cleo, appends_forced=True).is_ready


def test_a_grammar_is_compiled_once_for_all_that_wait_for_it(run: CompilerRun) -> None:
    waiting = [run.compiler.start(f"r{index}", GrammarKey("", GRAMMARS[0]), appends_forced=True) for index in range(3)]
    assert run.compiler.is_compiling
    assert not any(grammar.is_ready for grammar in waiting)
    assert run.collect() == []
    assert not run.compiler.is_compiling
    assert all(grammar.is_ready for grammar in waiting)
    first, second, _ = waiting
    first.advance([first.forced_next or 0], max_tokens=9)
    assert second.num_forced == 0  # each has its own place
    assert run.compiler.start("late", GrammarKey("", GRAMMARS[0]), appends_forced=True).is_ready
    tally = run.compiler.take_tally()
    assert (tally.queries, tally.hits) == (4, 1)
    assert {outcome: len(seconds) for outcome, seconds in tally.compile_s.items()} == {CompileOutcome.COMPILED: 1}


def test_a_grammar_that_makes_no_sense_is_refused_with_the_reason(run: CompilerRun) -> None:
    ((sequence_id, refused),) = run.compile(INVALID, "bad")
    assert (sequence_id, refused.outcome) == ("bad", CompileOutcome.INVALID)
    assert "minimum (3) is greater than maximum (2)" in refused.error
    assert run.compile(INVALID)  # a refusal is not cached
    assert run.compile(GRAMMARS[1]) == []


def test_a_grammar_that_drafts_cannot_follow_is_refused(run: CompilerRun) -> None:
    text = json.dumps({"grammars": [{"lark_grammar": "start: a\na[max_tokens=3]: /[abc]+/"}]})
    ((_, refused),) = run.compile(text)
    assert "use suffix=..." in refused.error


@pytest.mark.parametrize("run", [{"timeout_s": 0.4}], indirect=True)
def test_a_grammar_that_takes_too_long_is_refused(run: CompilerRun) -> None:
    ((_, refused),) = run.compile(SLOW)
    assert refused.outcome is CompileOutcome.TIMEOUT
    assert "not compiled within 0.4 s (--grammar-compile-timeout)" in refused.error
    assert run.compile(GRAMMARS[1]) == []


def test_a_trial_process_that_dies_takes_nothing_with_it(run: CompilerRun) -> None:
    assert run.compile(GRAMMARS[1]) == []
    run.compiler.start("r", GrammarKey("", SLOW), appends_forced=True)
    deadline_s = time.monotonic() + 30
    while not run.compiler._lanes._running:  # until a process has the grammar
        assert time.monotonic() < deadline_s
    (parent,) = _trial_parents()
    os.kill(parent, signal.SIGKILL)
    ((_, refused),) = run.collect()
    assert refused.outcome is CompileOutcome.INVALID
    assert "more memory or depth than is allowed" in refused.error
    assert run.compile(GRAMMARS[2]) == []


def test_slow_grammars_do_not_hold_up_others(run: CompilerRun) -> None:
    slow = [
        run.compiler.start(f"slow{index}", GrammarKey("", slow_grammar(1_000_003 + 2 * index)), appends_forced=True)
        for index in range(9)
    ]
    quick = run.compiler.start("quick", GrammarKey("", GRAMMARS[0]), appends_forced=True)
    assert run.collect() == []
    assert quick.is_ready
    assert not any(grammar.is_ready for grammar in slow)


def test_no_process_outlives_the_compiler() -> None:
    run = CompilerRun()
    assert run.compile(GRAMMARS[1]) == []
    run.compiler.start("slow", GrammarKey("", SLOW), appends_forced=True)
    family = [child for parent in _trial_parents() for child in (parent, *_children(parent))]
    run.compiler.close()
    assert len(family) >= 2
    deadline_s = time.monotonic() + 30
    while any(_runs(process_id) for process_id in family):
        assert time.monotonic() < deadline_s


def test_what_nobody_waits_for_is_given_up(run: CompilerRun) -> None:
    assert run.compile(GRAMMARS[1]) == []
    run.compiler.start("stays", GrammarKey("", SLOW), appends_forced=True)
    run.compiler.start("goes", GrammarKey("", SLOW), appends_forced=True)
    run.compiler.forget("goes", GrammarKey("", SLOW))
    assert run.compiler.is_compiling
    run.compiler.forget("stays", GrammarKey("", SLOW))
    assert run.collect() == []  # long before it would have been compiled
    assert CompileOutcome.CANCELED in run.compiler.take_tally().compile_s
    assert run.compile(GRAMMARS[2]) == []


def test_who_comes_for_what_was_given_up_gets_it(run: CompilerRun) -> None:
    run.compiler.start("goes", GrammarKey("", GRAMMARS[0]), appends_forced=True)
    run.compiler.forget("goes", GrammarKey("", GRAMMARS[0]))
    grammar = run.compiler.start("comes", GrammarKey("", GRAMMARS[0]), appends_forced=True)
    while run.compiler.is_compiling:
        run.collect()
    assert grammar.is_ready


@pytest.mark.parametrize("run", [{"cache_bytes": 700_000}], indirect=True)  # two grammars of about 310,000
def test_the_cache_holds_what_was_used_last_within_its_bytes(run: CompilerRun) -> None:
    for text in GRAMMARS[:2]:
        run.compile(text)
    assert run.compiler.start("again", GrammarKey("", GRAMMARS[0]), appends_forced=True).is_ready
    run.compile(GRAMMARS[2])
    assert 0 < run.compiler.cache.num_bytes <= 700_000
    assert run.compiler.start("again", GrammarKey("", GRAMMARS[0]), appends_forced=True).is_ready
    assert not run.compiler.start("again", GrammarKey("", GRAMMARS[1]), appends_forced=True).is_ready


def test_an_engine_gives_each_request_what_its_grammar_leaves(run: CompilerRun) -> None:
    engine, _ = make_engine(grammars=run.compiler)
    requests = [
        make_request(f"r{index}", make_prompt(5, seed=index), max_tokens=20, seed=index, grammar=grammar)
        for index, grammar in enumerate([*GRAMMARS, None, *GRAMMARS])
    ]
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert {id: output.new_ids for id, output in outputs.items()} == {r.id: expected_ids(r) for r in requests}
    reasons = {r.id: expected_output(r)[1] for r in requests if r.grammar is not None}
    assert {id: outputs[id].finish_reason for id in reasons} == reasons
    assert sum(stats.forced_tokens for stats in client.steps) > 0
    assert sum(len(seconds) for stats in client.steps for seconds in stats.grammar_compile_s.values()) == len(GRAMMARS)
    assert client.steps[-1].grammar_cache_bytes > 0


@pytest.mark.parametrize("run", [{"timeout_s": 1.5}], indirect=True)
def test_a_request_that_waits_for_its_grammar_holds_up_nobody(run: CompilerRun) -> None:
    engine, _ = make_engine(grammars=run.compiler, max_num_seqs=1)
    engine.add(make_request("slow", make_prompt(5), grammar=SLOW))
    assert not engine.has_work
    outputs = LocalClient(engine).generate([make_request("plain", make_prompt(9), max_tokens=30)])
    assert next(iter(outputs)) == "plain"


def test_a_refused_grammar_ends_its_request_alone(run: CompilerRun) -> None:
    engine, _ = make_engine(grammars=run.compiler)
    plain, bad = make_request("plain", make_prompt(9)), make_request("bad", make_prompt(5), grammar=INVALID)
    outputs = LocalClient(engine).generate([bad, plain])
    assert outputs["plain"].new_ids == expected_ids(plain)
    assert outputs["bad"].finish_reason is FinishReason.ERROR
    assert outputs["bad"].is_refused
    assert "minimum" in (outputs["bad"].error or "")


def test_a_grammar_that_becomes_too_complex_ends_its_request_as_refused(run: CompilerRun) -> None:
    """It is the request's fault, so it is no error of the server's."""
    engine, _ = make_engine(grammars=run.compiler)
    plain, bad = make_request("plain", make_prompt(9)), make_request("bad", make_prompt(5), grammar=TOO_COMPLEX_LATER)
    outputs = LocalClient(engine).generate([bad, plain])
    assert outputs["plain"].new_ids == expected_ids(plain)
    assert outputs["bad"].is_refused
    assert "too much work" in (outputs["bad"].error or "")


def test_logprobs_keep_forced_tokens_out_of_the_output_but_not_out_of_the_text(run: CompilerRun) -> None:
    """Each token then has a row of its own, whose mask leaves the forced one alone: the text is the same."""
    engine, _ = make_engine(grammars=run.compiler)

    def request(id: str, logprobs: int | None) -> EngineRequest:
        return make_request(id, make_prompt(5), max_tokens=30, grammar=GRAMMARS[0], logprobs=logprobs)

    outputs = LocalClient(engine).generate([request("plain", None), request("scored", 0)])
    assert outputs["plain"].new_ids == outputs["scored"].new_ids
    assert [entry.token_id for entry in outputs["scored"].logprobs or []] == outputs["scored"].new_ids


def _runs(process_id: int) -> bool:
    return _state(process_id) not in ("Z", "X")


def _state(process_id: int) -> str:
    """The state in /proc; X where there is no such process."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _trial_parents() -> list[int]:
    """This process's own: servers of other tests may be its children, too."""
    return [child for child in _children(os.getpid()) if b"trial_parent" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _children(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
