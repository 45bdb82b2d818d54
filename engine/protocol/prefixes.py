"""Named prefixes in messages: prompts whose blocks an operator keeps in the KV cache, and where their blocks are."""

import enum

import msgspec

from engine.protocol.adapters import AdapterRef


class NamedPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that requests begin with, under an operator's name. Only its whole blocks are kept."""

    name: str
    prompt_ids: list[int]
    cache_salt: str = ""  # as in EngineRequest: only requests with the same salt find the prefix
    adapter: AdapterRef | None = None


class PrefixAction(enum.StrEnum):
    """Action on a named prefix, which is reported after it."""

    REPORT = "report"
    SAVE = "save"  # write its blocks to disk, those that the KV cache or the disk has; with --kv-offload-dir
    PIN = "pin"  # keep its blocks in the KV cache, if all of them are there and the limit allows it; and save them
    UNPIN = "unpin"


class PrefixReport(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prefix's blocks are, after an action. A window's group has only the blocks that a continuation needs."""

    num_tokens: int  # of whole blocks
    num_blocks: int
    num_in_cache: int  # blocks in the KV cache
    num_on_disk: int = 0
    num_missing: int = 0  # blocks that are neither in the KV cache nor on disk, or on their way to the disk
    is_pinned: bool = False
    was_pinned: bool = False  # before the action
    is_refused: bool = False  # it cannot be pinned: more than `max_pinned` blocks would be
    num_pinned: int = 0  # blocks of all pinned prefixes
    max_pinned: int = 0
    idle_s: float | None = None  # since a request last used the prefix; None if the cache does not have its end
