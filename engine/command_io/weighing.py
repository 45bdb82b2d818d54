"""Weighed: the memory that a model would need, reported before any model is loaded."""

import msgspec


class Weighed(msgspec.Struct, frozen=True, tag=True):
    """The memory need of one model, or the reason why it cannot be served."""

    failure: str | None = None
    is_option: bool = False  # the failure is a wrong option, not the model
    is_on_cpu: bool = True
    weight_bytes: int = 0  # expected, of a draft model too
    adapter_bytes: int = 0  # that adapters may take
    least_kv_bytes: int = 0  # of the shortest context that makes sense, or of the requested one
    most_kv_bytes: int = 0  # that the model's requests could use
    token_kv_bytes: int = 0  # of a token in all layers, the draft model's too
    longest: int = 0  # tokens of the longest sequence
    has_kv_cache: bool = True  # False: the kv_bytes are the memory of a batch of texts to pool
    free_bytes: int = 0  # on its device, now
    capabilities: list[str] = []  # as of ServedModel, without those that depend on its chat template and vocabulary
    trainable_layers: list[str] = []  # as of EngineInfo


class Weighing(msgspec.Struct, frozen=True, tag=True):
    """Progress report of the process that computes models' memory needs, and may download files for that. After the
    reports comes one Weighed per model, in order."""

    stage: str
    done: int
    total: int
    unit: str


WeighMessage = Weighing | Weighed
