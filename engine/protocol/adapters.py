"""LoRA adapters in messages: the version that a request uses, its properties, and statistics."""

import msgspec

NO_ADAPTERS = "this model can have no LoRA adapters: they are for models that generate text, and need --enable-lora"


class AdapterRef(msgspec.Struct, frozen=True):
    """One version of an adapter. Changed contents or another scale make another version, even under the same name."""

    name: str  # the adapter's name in the request, for logs and metrics
    path: str  # folder from which the adapter is read again after an eviction
    digest: bytes  # hash of contents and scale; files that have changed are refused


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of an adapter that the engine has loaded."""

    digest: bytes
    rank: int  # largest rank of the adapter's layers
    num_bytes: int
    base: str | None = None  # the model that it was trained on, by its own configuration


class AdapterStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Statistics of the adapters after one step. `fill_s` and `evictions` are increments, the other fields gauges."""

    running: list[str] = []  # names of running requests' adapters
    waiting: list[str] = []  # names of waiting requests' adapters
    slots_total: int = 0
    slots_used: int = 0  # slots of running requests, or promised to waiting ones
    slots_cached: int = 0  # filled slots that another adapter may take
    on_host: int = 0  # adapters in the host's memory, not counting slots
    fill_s: list[float] = []  # times to read and pack the adapters that were put into slots
    evictions: int = 0  # adapters that lost their slot to another adapter
