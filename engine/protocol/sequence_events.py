"""Sequence events: the history of one sequence in the engine, for request traces.

A sequence has few events: one for each admission, each preemption, each begin and end of a pause, each chunk of its
prompt and each new reason to wait, none for decoding steps. `at_s` is time.monotonic(), a clock that both processes
share.
"""

import enum

import msgspec


class WaitReason(enum.StrEnum):
    """Why a waiting sequence was not admitted to a step."""

    SLOTS = "places"  # --max-num-seqs sequences run
    BLOCKS = "blocks"  # running sequences need the free blocks of the KV cache, or the free recurrent states
    TOKENS = "tokens"  # the prompts before it take all tokens of the step
    PREFIX = "prefix"  # another sequence computes the prefix that both share
    GRAMMAR = "grammar"  # its grammar is being compiled
    ADAPTER = "adapter"  # its adapter is being read, or other requests' adapters have all slots
    TIER = "tier"  # blocks of its prefix, evicted earlier, are being read
    OTHERS = "others"  # the free room is for a sequence that came before it, or was served less


class _Event(msgspec.Struct, frozen=True, tag=True, array_like=True):
    id: str  # the sequence's id
    at_s: float


class Queued(_Event, frozen=True):
    num_running: int
    num_waiting: int  # number of sequences that wait before this sequence
    num_resumed: int  # output tokens that another engine had generated


class Waits(_Event, frozen=True):
    """The sequence waits for a new reason. is_shared: other tenants have running sequences in its service class."""

    reason: WaitReason
    is_shared: bool


class Admitted(_Event, frozen=True):
    num_cached: int  # prompt tokens from the prefix cache


class Computed(_Event, frozen=True):
    """A step computed a chunk of the sequence's prompt, or recomputed tokens lost in a preemption."""

    num_tokens: int
    num_left: int


class Preempted(_Event, frozen=True):
    """The sequence was preempted and waits again. reason: a PreemptionReason of engine/scheduling/steps/tally.py, or
    "out_of_memory" if a step ran out of memory."""

    reason: str
    num_lost: int  # number of computed tokens that were lost


class Paused(_Event, frozen=True):
    """The sequence, a line of a batch, stopped running for clients' sequences, and keeps its blocks."""


class Resumed(_Event, frozen=True):
    """The paused sequence runs again from where it stopped."""


class Ended(_Event, frozen=True):
    reason: str  # a FinishReason
    num_decode_steps: int
    num_drafted: int
    num_accepted: int  # drafted tokens that were accepted


SequenceEvent = Queued | Waits | Admitted | Computed | Preempted | Paused | Resumed | Ended
