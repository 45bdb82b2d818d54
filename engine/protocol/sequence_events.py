"""SequenceEvents: what steps did with one sequence, and why.

A sequence has a handful of them: one for each admission, each preemption, each chunk of its prompt and each new reason
to wait, and none for a step that decodes. `at_s` is by time.monotonic(), which is one clock for both processes.
"""

import enum

import msgspec


class WaitReason(enum.StrEnum):
    """Why a sequence that was looked at was not admitted to a step."""

    SLOTS = "places"  # as many sequences run as may
    BLOCKS = "blocks"  # of the KV cache, or recurrent states: those that run need what is free
    TOKENS = "tokens"  # the prompts before it take all tokens of the step
    PREFIX = "prefix"  # another sequence computes what both begin with
    GRAMMAR = "grammar"  # it is being compiled
    ADAPTER = "adapter"  # it is being read, or those of other requests have all slots
    OTHERS = "others"  # what is free is for one that came before it, or was served less


class Queued(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It came to the engine."""

    id: str
    at_s: float
    num_running: int
    num_waiting: int  # before it
    num_resumed: int  # tokens of its output that another engine had generated


class Waits(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It waits, for another reason than before. is_shared: others than its tenant have room that it cannot claim."""

    id: str
    at_s: float
    reason: WaitReason
    is_shared: bool


class Admitted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It has a place and runs, from what the prefix cache had of it."""

    id: str
    at_s: float
    num_cached: int


class Computed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The step that ends now computed this much of its prompt, or of what preemption lost."""

    id: str
    at_s: float
    num_tokens: int
    num_left: int


class Preempted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It gave up its room and waits. reason: a PreemptionReason of engine/scheduling/steps/tally.py, or "out_of_memory"
    if memory did not suffice for its step."""

    id: str
    at_s: float
    reason: str
    num_lost: int  # tokens that were computed


class Ended(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It is over."""

    id: str
    at_s: float
    reason: str  # a FinishReason
    num_decode_steps: int
    num_drafted: int
    num_accepted: int  # of these


SequenceEvent = Queued | Waits | Admitted | Computed | Preempted | Ended
