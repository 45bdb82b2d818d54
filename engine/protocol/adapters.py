"""Adapters as the API process and the engine speak of them: which version a request has, and what is known of it."""

import msgspec

NO_ADAPTERS = "this model can have no LoRA adapters: they are for models that generate text, and need --enable-lora"


class AdapterRef(msgspec.Struct, frozen=True):
    """One version of an adapter: other contents or another scale under the same name are another version."""

    name: str  # as the request called it, for logs and metrics
    path: str  # where it is read again when the engine does not have it any more
    digest: bytes  # of its contents and scale; a file that has another one by then is refused


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine found when it read an adapter."""

    digest: bytes
    rank: int  # the largest of its layers
    num_bytes: int
    base: str | None = None  # the model that it was trained on, as it says itself


class AdapterStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Adapters after one step; `fill_s` and `evictions` are increments."""

    running: list[str] = []  # names, of running requests
    waiting: list[str] = []  # of waiting ones
    slots_total: int = 0
    slots_used: int = 0  # by running requests, or promised to waiting ones
    slots_cached: int = 0  # filled, and free for another adapter
    on_host: int = 0  # adapters in memory, beside those in slots
    fill_s: list[float] = []  # how long it took to read and pack those that came into slots
    evictions: int = 0  # of slots whose adapter made room for another one
