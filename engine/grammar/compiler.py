"""GrammarCompiler: compiles grammars beside the engine's steps, and keeps compiled ones in a bounded cache."""

import enum
import logging
import os
import queue
import threading
import time
from collections import OrderedDict, abc
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import llguidance

from engine.grammar.errors import TrialTimeoutError
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.grammar.trial import Trial
from engine.grammar.trial_process import TrialProcess
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource

logger = logging.getLogger(__name__)

_MAX_THREADS = 4
_LOWEST_PRIORITY = 19
_MAX_MASK_S = 0.25  # on trial: masks that slow would hold up everybody's steps
_SLOW_S = 0.1  # what took longer on trial is compiled at the lowest priority
# Of a compiled grammar: 370 KB on average over the schemas of JSONSchemaBench, with a vocabulary of 152,000 tokens.
_BASE_BYTES = 300_000
_BYTES_PER_CHARACTER = 40


class Outcome(enum.StrEnum):
    """How compiling a grammar ended."""

    COMPILED = "compiled"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"  # nobody waited for it any longer


@dataclass(frozen=True, slots=True)
class Compilation:
    """One grammar that is compiled or refused. error: for the client."""

    text: str
    outcome: Outcome
    seconds: float
    matcher: llguidance.LLMatcher | None = None
    error: str = ""


@dataclass(slots=True)
class GrammarTally:
    """What happened since the last `take_tally`."""

    compile_s: dict[Outcome, list[float]] = field(default_factory=dict)
    queries: int = 0
    hits: int = 0


class GrammarCompiler:
    """`start`, `collect` and `forget` are called by the engine's thread; threads of its own compile.

    A sequence's grammar is ready at once if it is cached, and otherwise after a later `collect`.
    """

    def __init__(
        self, source: TokenizerSource, *, timeout_s: float, cache_bytes: int, on_compiled: abc.Callable[[], None]
    ) -> None:
        """on_compiled: called by another thread when `collect` has something to do."""
        self._eos_token_ids = frozenset(source.eos_token_ids)
        self._on_compiled = on_compiled
        self._cache = _Cache(cache_bytes)
        self._worker = _Worker(source, timeout_s)
        self._threads = ThreadPoolExecutor(_MAX_THREADS, "grammar")
        self._done: queue.SimpleQueue[Compilation] = queue.SimpleQueue()
        self._waiting: dict[str, dict[str, SequenceGrammar]] = {}  # text -> sequence id -> what waits for it
        self._tally = GrammarTally()

    @property
    def has_compiled(self) -> bool:
        """Whether `collect` has something to do."""
        return not self._done.empty()

    @property
    def is_compiling(self) -> bool:
        """Whether `collect` will have something to do, now or later."""
        return bool(self._waiting)

    def wait(self) -> None:
        """Return when `collect` has something to do. For who has nothing else to do meanwhile, and is compiling."""
        assert self.is_compiling
        self._done.put(self._done.get())

    @property
    def cache_bytes(self) -> int:
        """An estimate: nobody counts what a compiled grammar takes."""
        return self._cache.num_bytes

    def start(self, sequence_id: str, text: str, *, appends_forced: bool) -> SequenceGrammar:
        """The grammar of one sequence; appends_forced: as SequenceGrammar takes it."""
        grammar = SequenceGrammar(self._eos_token_ids, appends_forced=appends_forced)
        self._tally.queries += 1
        if (matcher := self._cache.get(text)) is not None:
            self._tally.hits += 1
            grammar.start(matcher.deep_copy())
            return grammar
        if text not in self._waiting:
            self._waiting[text] = {}
            self._threads.submit(self._compile, text)
        self._waiting[text][sequence_id] = grammar
        return grammar

    def forget(self, sequence_id: str, text: str) -> None:
        """The sequence has ended. What nobody waits for any longer is given up."""
        if self._waiting.get(text, {}).pop(sequence_id, None) is not None and not self._waiting[text]:
            self._worker.cancel(text)

    def collect(self) -> list[tuple[str, Compilation]]:
        """Make grammars ready that are compiled by now; returns those that are refused, with the sequences' ids."""
        refused: list[tuple[str, Compilation]] = []
        while not self._done.empty():
            done = self._done.get()
            self._tally.compile_s.setdefault(done.outcome, []).append(done.seconds)
            waiting = self._waiting.pop(done.text)
            if done.outcome is Outcome.CANCELLED and waiting:  # somebody came for it meanwhile
                self._waiting[done.text] = waiting
                self._threads.submit(self._compile, done.text)
                continue
            if done.matcher is None:
                refused += [(sequence_id, done) for sequence_id in waiting]
                continue
            self._cache.put(done.text, done.matcher)
            for grammar in waiting.values():
                grammar.start(done.matcher.deep_copy())
        return refused

    def take_tally(self) -> GrammarTally:
        tally, self._tally = self._tally, GrammarTally()
        return tally

    def close(self) -> None:
        """End the trial processes, and with them what is being compiled."""
        self._worker.close()
        self._threads.shutdown()

    def _compile(self, text: str) -> None:
        """On a thread of the pool."""
        self._done.put(self._worker.compile(text))
        self._on_compiled()


class _Worker:
    """What the compiling threads share: the vocabulary, which is read when the first grammar comes."""

    def __init__(self, source: TokenizerSource, timeout_s: float) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._vocabulary: Future[GrammarVocabulary] | None = None
        self._vocabulary_lock = threading.Lock()
        self._of_thread = threading.local()
        self._all_trials: list[TrialProcess] = []
        self._lock = threading.Lock()
        self._running: dict[str, TrialProcess] = {}  # by the text that is on trial
        self._cancelled: set[str] = set()

    def compile(self, text: str) -> Compilation:
        self._read_vocabulary()
        start_s = time.perf_counter()
        try:
            trial = self._try(text)
            if trial is None:
                return Compilation(text, Outcome.CANCELLED, time.perf_counter() - start_s)
            error = trial.error
            if not error and trial.mask_s > _MAX_MASK_S:
                error = f"it takes {trial.mask_s:.1f} s a token to follow; make it smaller"
            if error:
                return Compilation(text, Outcome.INVALID, trial.compile_s, error=error)
            make = self._matcher if trial.compile_s <= _SLOW_S else _at_low_priority(self._matcher)
            return Compilation(text, Outcome.COMPILED, trial.compile_s, make(text))
        except TrialTimeoutError:
            error = f"it was not compiled within {self._timeout_s:g} s (--grammar-compile-timeout); make it smaller"
            return Compilation(text, Outcome.TIMEOUT, time.perf_counter() - start_s, error=error)
        except BaseException as error:  # a panic in the library is no Exception, and somebody waits for an answer
            logger.exception("compiling a grammar failed")
            reason = f"it could not be compiled: {type(error).__name__}"
            return Compilation(text, Outcome.INVALID, time.perf_counter() - start_s, error=reason)

    def cancel(self, text: str) -> None:
        """End the text's trial, or let it not begin. For any thread."""
        with self._lock:
            self._cancelled.add(text)
            if text in self._running:
                self._running[text].kill()

    def close(self) -> None:
        for trials in self._all_trials:
            trials.close()

    def _try(self, text: str) -> Trial | None:
        """None if it was cancelled. Raises TrialTimeoutError."""
        trials = self._trials()
        with self._lock:
            if text in self._cancelled:
                self._cancelled.discard(text)
                return None
            self._running[text] = trials
        try:
            trial = trials.run(text, self._timeout_s)
        finally:
            with self._lock:
                del self._running[text]
                was_cancelled = text in self._cancelled
                self._cancelled.discard(text)
        return None if was_cancelled else trial

    def _trials(self) -> TrialProcess:
        """This thread's."""
        if not hasattr(self._of_thread, "trials"):
            self._of_thread.trials = TrialProcess(self._source)
            self._all_trials.append(self._of_thread.trials)
        trials: TrialProcess = self._of_thread.trials
        return trials

    def _read_vocabulary(self) -> "Future[GrammarVocabulary]":
        """Begun with the first grammar, beside the process that tries it and reads the vocabulary too."""
        with self._vocabulary_lock:
            if self._vocabulary is None:
                reader = ThreadPoolExecutor(1, "grammar-vocabulary")
                self._vocabulary = reader.submit(GrammarVocabulary.of, self._source)
                reader.shutdown(wait=False)
            return self._vocabulary

    def _matcher(self, text: str) -> llguidance.LLMatcher:
        """Compiled, and with what its first mask needs."""
        matcher = self._read_vocabulary().result().matcher(text)
        matcher.compute_ff_tokens()
        matcher.compute_bitmask()
        return matcher


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


class _Cache:
    """Compiled grammars by their text, the least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._matchers: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self.num_bytes = 0

    def get(self, text: str) -> llguidance.LLMatcher | None:
        if text not in self._matchers:
            return None
        self._matchers.move_to_end(text)
        return self._matchers[text]

    def put(self, text: str, matcher: llguidance.LLMatcher) -> None:
        """Evicts others to make room; what is larger than the whole cache is not stored."""
        size = _size(text)
        if size > self._max_bytes or text in self._matchers:
            return
        while self.num_bytes + size > self._max_bytes:
            evicted, _ = self._matchers.popitem(last=False)
            self.num_bytes -= _size(evicted)
        self._matchers[text] = matcher
        self.num_bytes += size


def _size(text: str) -> int:
    return _BASE_BYTES + _BYTES_PER_CHARACTER * len(text)
