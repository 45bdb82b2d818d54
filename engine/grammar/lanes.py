"""CompileLanes: compiles grammars in a fast and a slow lane, so that slow grammars do not hold up fast ones.

A grammar starts in the fast lane, with a time limit of a fraction of a second; nearly all need less than a tenth of it.
A grammar that needs more continues in the slow lane, in the process that is compiling it, and the fast lane gets a new
process:

    fast lane   |g1|g2|SLOW..|g3|g4|g5|
    slow lane                |SLOW.....................|

The slow lane has a limited number of processes, to limit memory. If it is full, the process is ended, and the grammar
starts over when its turn comes.
"""

import enum
import logging
import os
import threading
import time
from collections import abc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import llguidance

from engine.grammar.trial import Trial

logger = logging.getLogger(__name__)

MAX_FAST = 4
MAX_SLOW = 4
PATIENCE_S = 0.1  # in the fast lane

_LOWEST_PRIORITY = 19
_MAX_MASK_S = 0.25  # on trial: slower masks would hold up the steps of all requests


class CompileOutcome(enum.StrEnum):
    """How the compilation of a grammar ended."""

    COMPILED = "compiled"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CANCELED = "cancelled"  # no sequence waited for it any longer


class GrammarKey(NamedTuple):
    """A grammar's text, and the cache salt of its requests: nothing is shared between salts, so that the time until a
    grammar is compiled does not tell whether another client sent it."""

    salt: str
    text: str


@dataclass(frozen=True, slots=True)
class Compilation:
    """The result of compiling one grammar: a `matcher`, or on failure an `error`, the message for the client."""

    key: GrammarKey
    outcome: CompileOutcome
    seconds: float
    matcher: llguidance.LLMatcher | None = None
    error: str = ""


class RunningTrial(Protocol):
    """Interface of TrialProcess: a process that is compiling one grammar on trial."""

    def reply(self, timeout_s: float, /) -> Trial | None: ...

    def lower_priority(self) -> None: ...

    def kill(self) -> None: ...

    def end(self) -> None: ...


Running = TypeVar("Running", bound=RunningTrial)


class Trials(Protocol[Running]):
    """Interface of TrialProcesses: a pool of processes that compile grammars on trial."""

    def start(self, grammar: str, /) -> Running: ...

    def put_back(self, process: Running, /) -> None: ...


class CompileLanes(Generic[Running]):
    """Compiles grammars on its own threads. Only one thread may call `submit`, `cancel` and `close`.

    Invariants: a grammar is in one lane, once. The step that is done with a trial process ends it or returns it to the
    pool.
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
        """make: compiles a grammar in this process, after its trial. on_done: called once per grammar, on a compile
        thread."""
        self._trials = trials
        self._make = make
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._patience_s = min(patience_s, timeout_s)
        self._fast = ThreadPoolExecutor(MAX_FAST, "grammar")
        self._slow = ThreadPoolExecutor(MAX_SLOW, "grammar-slow")
        self._lock = threading.Lock()
        self._num_slow = 0  # in the slow lane, with those that have no process yet
        self._running: dict[GrammarKey, Running] = {}  # by the grammar that is on trial
        self._canceled: set[GrammarKey] = set()

    def submit(self, key: GrammarKey) -> None:
        self._fast.submit(self._step, key, lambda: self._try_fast(key))

    def cancel(self, key: GrammarKey) -> None:
        """Cancel the compilation of a grammar, killing its running trial."""
        with self._lock:
            self._canceled.add(key)
            if key in self._running:
                self._running[key].kill()

    def close(self) -> None:
        """Drop queued compilations and wait for running ones. The caller should kill the trial processes first."""
        self._fast.shutdown(cancel_futures=True)
        self._slow.shutdown(cancel_futures=True)

    def _step(self, key: GrammarKey, step: abc.Callable[[], Compilation | None]) -> None:
        """Run one step of compiling the grammar `key`, and report its result. Runs on a lane's thread.

        step: returns the compilation, or None if the grammar moved to the slow lane.
        """
        start_s = time.perf_counter()
        try:
            done = step()
        except BaseException as error:  # a panic in the library is not an Exception, and the caller waits for an answer
            logger.exception("compiling a grammar failed")
            reason = f"it could not be compiled: {type(error).__name__}"
            done = Compilation(key, CompileOutcome.INVALID, time.perf_counter() - start_s, error=reason)
        if done is not None:
            with self._lock:
                self._canceled.discard(key)
            self._on_done(done)

    def _try_fast(self, key: GrammarKey) -> Compilation | None:
        if self._is_canceled(key):
            return Compilation(key, CompileOutcome.CANCELED, 0.0)
        process = self._trials.start(key.text)
        trial = self._reply(key, process, self._patience_s)
        if isinstance(trial, Compilation):
            process.end()
            return trial
        if trial is not None:
            self._trials.put_back(process)
            return self._finished(key, trial, self._make)
        with self._lock:  # also around the submission: grammars with a process must come before those without
            has_process = self._num_slow < MAX_SLOW
            self._num_slow += 1
            if not has_process:
                process.end()
                self._slow.submit(self._step, key, lambda: self._try_slow(key, None))
                return None
            self._slow.submit(self._step, key, lambda: self._try_slow(key, process))
        return None

    def _try_slow(self, key: GrammarKey, process: Running | None) -> Compilation:
        """Try a grammar in the slow lane. process: the process that is already compiling it; None starts over."""
        try:
            trial = self._slow_trial(key, process)
            if isinstance(trial, Compilation):
                return trial
            return self._finished(key, trial, self._make_at_low_priority)
        finally:
            with self._lock:
                self._num_slow -= 1

    def _slow_trial(self, key: GrammarKey, process: Running | None) -> Trial | Compilation:
        timeout_s = self._timeout_s if process is None else self._timeout_s - self._patience_s
        try:
            if self._is_canceled(key):
                return Compilation(key, CompileOutcome.CANCELED, 0.0)
            if process is None:
                process = self._trials.start(key.text)
            process.lower_priority()
            trial = self._reply(key, process, timeout_s)
        finally:
            if process is not None:
                process.end()  # its priority cannot be raised again
        if trial is None:
            error = f"it was not compiled within {self._timeout_s:g} s (--grammar-compile-timeout); make it smaller"
            return Compilation(key, CompileOutcome.TIMEOUT, self._timeout_s, error=error)
        return trial

    def _reply(self, key: GrammarKey, process: Running, timeout_s: float) -> Trial | Compilation | None:
        """Wait for the trial's result; return a failed Compilation if its process died, None on timeout."""
        start_s = time.perf_counter()
        try:
            with self._killable(key, process):
                return process.reply(timeout_s)
        except EOFError:
            if self._is_canceled(key):
                return Compilation(key, CompileOutcome.CANCELED, time.perf_counter() - start_s)
            error = "compiling it needs more memory or depth than is allowed; make it smaller"
            return Compilation(key, CompileOutcome.INVALID, time.perf_counter() - start_s, error=error)

    @contextmanager
    def _killable(self, key: GrammarKey, process: Running) -> abc.Iterator[None]:
        """Register the process, so that `cancel` can kill it while the block runs."""
        with self._lock:
            self._running[key] = process
            if key in self._canceled:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]

    def _is_canceled(self, key: GrammarKey) -> bool:
        with self._lock:
            return key in self._canceled

    def _make_at_low_priority(self, text: str) -> llguidance.LLMatcher:
        """Compile in this process on a throw-away thread, since a thread's priority cannot be raised again."""
        with ThreadPoolExecutor(1, initializer=_lower_priority) as thread:
            return thread.submit(self._make, text).result()

    def _finished(self, key: GrammarKey, trial: Trial, make: abc.Callable[[str], llguidance.LLMatcher]) -> Compilation:
        error = trial.error
        if not error and trial.mask_s > _MAX_MASK_S:
            error = f"it takes {trial.mask_s:.1f} s a token to follow; make it smaller"
        if error:
            return Compilation(key, CompileOutcome.INVALID, trial.compile_s, error=error)
        if self._is_canceled(key):
            return Compilation(key, CompileOutcome.CANCELED, trial.compile_s)
        return Compilation(key, CompileOutcome.COMPILED, trial.compile_s, make(key.text))


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)  # of this thread, on Linux
