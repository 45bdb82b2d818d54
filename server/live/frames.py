"""EngineFrame: the engine's work since the previous frame."""

from collections import deque

import msgspec

from engine.protocol import StepStats

MAX_STEPS = 60  # in a frame; of a faster engine, the oldest are left out


class FrameStep(msgspec.Struct, frozen=True, array_like=True):
    """One step of the engine."""

    step_ms: float
    prefill_tokens: int  # these two include lines of batches, and texts of a model that pools
    decode_tokens: int  # drafts included
    running: int


class Queue(msgspec.Struct, frozen=True):
    """Waiting requests by service class."""

    urgent: int = 0
    interactive: int = 0
    background: int = 0
    for_grammar: int = 0  # requests of all classes that wait for their grammar to be compiled


class BatchLines(msgspec.Struct, frozen=True):
    """Lines of batches in the engine by state. Paused ones keep their blocks while clients' requests run."""

    running: int = 0
    paused: int = 0
    waiting: int = 0


class Blocks(msgspec.Struct, frozen=True):
    """Blocks of the KV cache by use."""

    total: int = 0
    live: int = 0  # used by one running request
    shared: int = 0  # used by several running requests
    cached: int = 0  # unused, with a reusable prefix


class Drafts(msgspec.Struct, frozen=True):
    """Counts of speculative decoding."""

    num_drafts: int = 0
    drafted: int = 0  # tokens
    accepted: int = 0  # tokens
    accepted_by_position: list[int] = []


class Phases(msgspec.Struct, frozen=True):
    """Time of the steps by phase, in seconds."""

    schedule: float = 0.0
    forward: float = 0.0
    sample: float = 0.0
    draft: float = 0.0
    update: float = 0.0
    send: float = 0.0


class EngineFrame(msgspec.Struct, frozen=True):
    """The engine's work since the previous frame: sums over its steps, and gauges as of the last step."""

    num_steps: int = 0
    steps: list[FrameStep] = []
    prefill_tokens: int = 0  # these two include lines of batches, which `running` and `queue` do not, and pooled texts
    decode_tokens: int = 0
    running: int = 0
    queue: Queue = Queue()
    batch: BatchLines = BatchLines()
    blocks: Blocks = Blocks()
    prefix_queries: int = 0  # prompt tokens looked up in the cache
    prefix_hits: int = 0  # prompt tokens found in the cache
    preemptions: int = 0
    evicted_blocks: int = 0
    drafts: Drafts = Drafts()
    phases: Phases = Phases()


class FrameBuilder:
    """Collects the statistics of steps for the next frame."""

    def __init__(self, last: StepStats) -> None:
        """last: statistics of the step before the first one that is added."""
        self._stats: deque[StepStats] = deque()
        self._last = last

    def add(self, stats: StepStats) -> None:
        self._stats.append(stats)

    def take(self) -> EngineFrame:
        """Return the frame of all steps since the last call."""
        stats, self._stats = self._stats, deque()
        if stats:
            self._last = stats[-1]
        last = self._last
        by_position: list[int] = []
        for each in stats:
            by_position += [0] * (len(each.accepted_by_position) - len(by_position))
            for position, count in enumerate(each.accepted_by_position):
                by_position[position] += count
        return EngineFrame(
            num_steps=len(stats),
            steps=[_step(each) for each in list(stats)[-MAX_STEPS:]],
            prefill_tokens=sum(each.read_tokens for each in stats),
            decode_tokens=sum(each.written_tokens for each in stats),
            running=last.running,
            queue=Queue(
                urgent=last.waiting_urgent,
                interactive=last.waiting - last.waiting_urgent - last.waiting_background,
                background=last.waiting_background,
                for_grammar=last.waiting_for_grammar,
            ),
            batch=BatchLines(last.running_batch, last.paused_batch, last.waiting_batch),
            blocks=Blocks(
                total=last.blocks_total,
                live=last.blocks_used - last.blocks_shared,
                shared=last.blocks_shared,
                cached=last.blocks_cached,
            ),
            prefix_queries=sum(each.prefix_queries for each in stats),
            prefix_hits=sum(each.prefix_hits for each in stats),
            preemptions=sum(each.preemptions for each in stats),
            evicted_blocks=sum(count for each in stats for _, count in each.evicted_blocks),
            drafts=Drafts(
                num_drafts=sum(each.num_drafts for each in stats),
                drafted=sum(each.draft_tokens for each in stats),
                accepted=sum(each.accepted_tokens for each in stats),
                accepted_by_position=by_position,
            ),
            phases=Phases(
                schedule=sum(each.schedule_s for each in stats),
                forward=sum(each.forward_s for each in stats),
                sample=sum(each.sample_s for each in stats),
                draft=sum(each.draft_s for each in stats),
                update=sum(each.update_s for each in stats),
                send=sum(each.send_s for each in stats),
            ),
        )


def _step(stats: StepStats) -> FrameStep:
    return FrameStep(round(stats.step_s * 1000, 2), stats.read_tokens, stats.written_tokens, stats.running)
