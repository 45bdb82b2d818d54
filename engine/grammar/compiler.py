"""GrammarCompiler: compiles grammars in the background, and caches compiled ones within a memory limit."""

import queue
from collections import OrderedDict, abc
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import llguidance

from engine.grammar.lanes import Compilation, CompileLanes, CompileOutcome, GrammarKey
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.grammar.trial_process import TrialProcess, TrialProcesses
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource

# A compiled grammar has 370 KB on average over the schemas of JSONSchemaBench, with a vocabulary of 152,000 tokens.
_BASE_BYTES = 300_000
_BYTES_PER_CHARACTER = 40


@dataclass(slots=True)
class GrammarTally:
    """Compile times by outcome, and cache queries and hits, since the last `take_tally`."""

    compile_s: dict[CompileOutcome, list[float]] = field(default_factory=dict)
    queries: int = 0
    hits: int = 0


class GrammarCompiler:
    """Compiles grammars on its own threads. Only the engine's thread may call `start`, `collect` and `forget`.

    A sequence's grammar is ready immediately on a cache hit, and otherwise after a later `collect`.
    """

    def __init__(
        self, source: TokenizerSource, *, timeout_s: float, cache_bytes: int, on_compiled: abc.Callable[[], None]
    ) -> None:
        """on_compiled: called on another thread when `collect` has something to do."""
        self._eos_token_ids = frozenset(source.eos_token_ids)
        self._on_compiled = on_compiled
        self.cache = GrammarCache(cache_bytes)
        self._source = source
        self._vocabulary: Future[GrammarVocabulary] | None = None  # read with the first grammar
        self._trials = TrialProcesses(source)
        self._lanes: CompileLanes[TrialProcess] = CompileLanes(
            self._trials, self._matcher, timeout_s=timeout_s, on_done=self._finish
        )
        self._done: queue.SimpleQueue[Compilation] = queue.SimpleQueue()
        self._waiting: dict[GrammarKey, dict[str, SequenceGrammar]] = {}  # by sequence id
        self._tally = GrammarTally()

    @property
    def has_compiled(self) -> bool:
        """Whether a compilation has finished that `collect` has not yet processed."""
        return not self._done.empty()

    @property
    def is_compiling(self) -> bool:
        """Whether any compilation is running or waits for `collect`."""
        return bool(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Number of sequences whose grammars are being compiled."""
        return sum(len(sequences) for sequences in self._waiting.values())

    def wait(self) -> None:
        """Block until `collect` has something to do. Call only while `is_compiling`."""
        assert self.is_compiling
        self._done.put(self._done.get())

    def start(
        self, sequence_id: str, key: GrammarKey, *, appends_forced: bool, output_ids: abc.Sequence[int] = ()
    ) -> SequenceGrammar:
        """Return a new sequence's grammar; compile it if not cached.

        appends_forced: append forced tokens to the output without sampling them. output_ids: output that another engine
        generated, for a resumed request.
        """
        grammar = SequenceGrammar(self._eos_token_ids, appends_forced=appends_forced, output_ids=output_ids)
        self._tally.queries += 1
        if (matcher := self.cache.get(key)) is not None:
            self._tally.hits += 1
            grammar.start(matcher.deep_copy())
            return grammar
        if key not in self._waiting:
            self._waiting[key] = {}
            if self._vocabulary is None:  # while the trial process reads it too
                reader = ThreadPoolExecutor(1, "grammar-vocabulary")
                self._vocabulary = reader.submit(GrammarVocabulary.of, self._source)
                reader.shutdown(wait=False)
            self._lanes.submit(key)
        self._waiting[key][sequence_id] = grammar
        return grammar

    def forget(self, sequence_id: str, key: GrammarKey) -> None:
        """Drop a sequence that has ended. A compilation that no other sequence waits for is canceled."""
        if self._waiting.get(key, {}).pop(sequence_id, None) is not None and not self._waiting[key]:
            self._lanes.cancel(key)

    def collect(self) -> list[tuple[str, Compilation]]:
        """Mark grammars that have compiled as ready; return failed compilations with their sequences' ids."""
        refused: list[tuple[str, Compilation]] = []
        while not self._done.empty():
            done = self._done.get()
            self._tally.compile_s.setdefault(done.outcome, []).append(done.seconds)
            waiting = self._waiting.pop(done.key)
            if done.outcome is CompileOutcome.CANCELED and waiting:  # a sequence came for it meanwhile
                self._waiting[done.key] = waiting
                self._lanes.submit(done.key)
                continue
            if done.matcher is None:
                refused += [(sequence_id, done) for sequence_id in waiting]
                continue
            self.cache.put(done.key, done.matcher)
            for grammar in waiting.values():
                grammar.start(done.matcher.deep_copy())
        return refused

    def take_tally(self) -> GrammarTally:
        tally, self._tally = self._tally, GrammarTally()
        return tally

    def close(self) -> None:
        """Kill the trial processes, which ends all compilations."""
        self._trials.close()
        self._lanes.close()

    def _finish(self, done: Compilation) -> None:
        """Queue a finished compilation for `collect`; called on a compile thread."""
        self._done.put(done)
        self._on_compiled()

    def _matcher(self, text: str) -> llguidance.LLMatcher:
        """Compile a grammar in this process, and warm up the parser states that its first mask needs."""
        assert self._vocabulary is not None
        matcher = self._vocabulary.result().matcher(text)
        matcher.compute_ff_tokens()
        matcher.compute_bitmask()
        return matcher


class GrammarCache:
    """An LRU cache of compiled grammars by key, bounded in (estimated) bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._matchers: OrderedDict[GrammarKey, llguidance.LLMatcher] = OrderedDict()
        self.num_bytes = 0  # an estimate: the library does not report the size of a compiled grammar

    def get(self, key: GrammarKey) -> llguidance.LLMatcher | None:
        if key not in self._matchers:
            return None
        self._matchers.move_to_end(key)
        return self._matchers[key]

    def put(self, key: GrammarKey, matcher: llguidance.LLMatcher) -> None:
        """Store a grammar, evicting other grammars to make room; a grammar larger than the whole cache is not
        stored."""
        size = _size(key.text)
        if size > self._max_bytes or key in self._matchers:
            return
        while self.num_bytes + size > self._max_bytes:
            evicted, _ = self._matchers.popitem(last=False)
            self.num_bytes -= _size(evicted.text)
        self._matchers[key] = matcher
        self.num_bytes += size


def _size(text: str) -> int:
    return _BASE_BYTES + _BYTES_PER_CHARACTER * len(text)
