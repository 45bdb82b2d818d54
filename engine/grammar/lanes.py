"""CompileLanes: compile grammars, so that slow ones do not hold up others.

A grammar begins in the fast lane, and has a fraction of a second there; nearly all need less than a tenth of that. One
that needs more goes on in the slow lane, in the process that it is in, and the fast lane gets another one:

    fast lane   |g1|g2|SLOW..|g3|g4|g5|
    slow lane                |SLOW.....................|

Where the slow lane is full, its processes being bounded as their memory is, the process is given up, and the grammar
begins again when it comes to its turn.
"""

import logging
import os
import threading
import time
from collections import abc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import llguidance

from engine.grammar.compilation import Compilation, Outcome
from engine.grammar.trial import Trial

logger = logging.getLogger(__name__)

MAX_FAST = 4
MAX_SLOW = 4
PATIENCE_S = 0.1  # of the fast lane

_LOWEST_PRIORITY = 19
_MAX_MASK_S = 0.25  # on trial: masks that slow would hold up everybody's steps


class RunningTrial(Protocol):
    """A process that tries one grammar; see TrialProcess."""

    def reply(self, timeout_s: float, /) -> Trial | None: ...

    def give_way(self) -> None: ...

    def kill(self) -> None: ...

    def end(self) -> None: ...


Running = TypeVar("Running", bound=RunningTrial)


class Trials(Protocol[Running]):
    """See TrialProcesses."""

    def begin(self, grammar: str, /) -> Running: ...

    def put_back(self, process: Running, /) -> None: ...


class CompileLanes(Generic[Running]):
    """`submit`, `cancel` and `close` are for one thread; threads of its own compile.

    Invariants: a grammar is in one lane, once. What it is tried by is ended, or put back, by the step that leaves it.
    """

    def __init__(
        self,
        trials: Trials[Running],
        make: abc.Callable[[str], llguidance.LLMatcher],
        *,
        timeout_s: float,
        on_done: abc.Callable[[Compilation], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """make: compiles in this process what went well on trial. on_done: called once for each grammar that is
        submitted, by another thread."""
        self._trials = trials
        self._make = make
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._patience_s = min(patience_s, timeout_s)
        self._fast = ThreadPoolExecutor(MAX_FAST, "grammar")
        self._slow = ThreadPoolExecutor(MAX_SLOW, "grammar-slow")
        self._lock = threading.Lock()
        self._num_slow = 0  # in the slow lane, those included that have no process yet
        self._running: dict[str, Running] = {}  # by the text that is on trial
        self._cancelled: set[str] = set()

    def submit(self, text: str) -> None:
        self._fast.submit(self._step, text, lambda: self._try_fast(text))

    def cancel(self, text: str) -> None:
        """End the text's trial, or let it not begin."""
        with self._lock:
            self._cancelled.add(text)
            if text in self._running:
                self._running[text].kill()

    def close(self) -> None:
        """Return when nothing is compiled any longer. Trials should have been ended before."""
        self._fast.shutdown(cancel_futures=True)
        self._slow.shutdown(cancel_futures=True)

    def _step(self, text: str, step: abc.Callable[[], Compilation | None]) -> None:
        """On a thread of a lane. step: returns None if the grammar goes on in the slow lane."""
        start_s = time.perf_counter()
        try:
            done = step()
        except BaseException as error:  # a panic in the library is no Exception, and somebody waits for an answer
            logger.exception("compiling a grammar failed")
            reason = f"it could not be compiled: {type(error).__name__}"
            done = Compilation(text, Outcome.INVALID, time.perf_counter() - start_s, error=reason)
        if done is not None:
            with self._lock:
                self._cancelled.discard(text)
            self._on_done(done)

    def _try_fast(self, text: str) -> Compilation | None:
        if self._is_cancelled(text):
            return Compilation(text, Outcome.CANCELLED, 0.0)
        process = self._trials.begin(text)
        trial = self._reply(text, process, self._patience_s)
        if isinstance(trial, Compilation):
            process.end()
            return trial
        if trial is not None:
            self._trials.put_back(process)
            return self._finished(text, trial, self._make)
        with self._lock:  # also around the submission: who has a place must come before those who have none
            has_place = self._num_slow < MAX_SLOW
            self._num_slow += 1
            if not has_place:
                process.end()
                self._slow.submit(self._step, text, lambda: self._try_slow(text, None))
                return None
            self._slow.submit(self._step, text, lambda: self._try_slow(text, process))
        return None

    def _try_slow(self, text: str, process: Running | None) -> Compilation:
        """process: that tries it already; None: it begins again."""
        try:
            trial = self._slow_trial(text, process)
            if isinstance(trial, Compilation):
                return trial
            return self._finished(text, trial, _at_low_priority(self._make))
        finally:
            with self._lock:
                self._num_slow -= 1

    def _slow_trial(self, text: str, process: Running | None) -> Trial | Compilation:
        timeout_s = self._timeout_s if process is None else self._timeout_s - self._patience_s
        try:
            if self._is_cancelled(text):
                return Compilation(text, Outcome.CANCELLED, 0.0)
            if process is None:
                process = self._trials.begin(text)
            process.give_way()
            trial = self._reply(text, process, timeout_s)
        finally:
            if process is not None:
                process.end()  # its priority cannot be raised again
        if trial is None:
            error = f"it was not compiled within {self._timeout_s:g} s (--grammar-compile-timeout); make it smaller"
            return Compilation(text, Outcome.TIMEOUT, self._timeout_s, error=error)
        return trial

    def _reply(self, text: str, process: Running, timeout_s: float) -> Trial | Compilation | None:
        """What came of the trial; a Compilation where the process has died, or was killed; None if not in time."""
        start_s = time.perf_counter()
        try:
            with self._killable(text, process):
                return process.reply(timeout_s)
        except EOFError:
            if self._is_cancelled(text):
                return Compilation(text, Outcome.CANCELLED, time.perf_counter() - start_s)
            error = "compiling it needs more memory or depth than is allowed; make it smaller"
            return Compilation(text, Outcome.INVALID, time.perf_counter() - start_s, error=error)

    @contextmanager
    def _killable(self, text: str, process: Running) -> abc.Iterator[None]:
        """Inside the block, `cancel` ends the process."""
        with self._lock:
            self._running[text] = process
            if text in self._cancelled:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                del self._running[text]

    def _is_cancelled(self, text: str) -> bool:
        with self._lock:
            return text in self._cancelled

    def _finished(self, text: str, trial: Trial, make: abc.Callable[[str], llguidance.LLMatcher]) -> Compilation:
        error = trial.error
        if not error and trial.mask_s > _MAX_MASK_S:
            error = f"it takes {trial.mask_s:.1f} s a token to follow; make it smaller"
        if error:
            return Compilation(text, Outcome.INVALID, trial.compile_s, error=error)
        if self._is_cancelled(text):
            return Compilation(text, Outcome.CANCELLED, trial.compile_s)
        return Compilation(text, Outcome.COMPILED, trial.compile_s, make(text))


def _at_low_priority(
    make: abc.Callable[[str], llguidance.LLMatcher],
) -> abc.Callable[[str], llguidance.LLMatcher]:
    """`make` on a thread that gives way to the engine's. Its own, since a priority cannot be raised again."""

    def run(text: str) -> llguidance.LLMatcher:
        with ThreadPoolExecutor(1, initializer=_lower_priority) as thread:
            return thread.submit(make, text).result()

    return run


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)  # of this thread, on Linux
