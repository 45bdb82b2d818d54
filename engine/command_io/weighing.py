"""Weighed: what models would need of the memory, told before any of them is loaded."""

import msgspec


class Weighed(msgspec.Struct, frozen=True, tag=True):
    """One model. A reason in place of the rest if it cannot be served."""

    failure: str | None = None
    is_option: bool = False  # an option is wrong, and not the model
    is_on_cpu: bool = True
    weight_bytes: int = 0  # expected, of a draft model too
    adapter_bytes: int = 0  # that adapters may take
    least_kv_bytes: int = 0  # of the shortest context that makes sense, or of the one that was asked for
    most_kv_bytes: int = 0  # that its requests could use
    token_kv_bytes: int = 0  # of a token in all layers, of a draft model's too
    longest: int = 0  # tokens of its longest sequence
    has_kv_cache: bool = True  # False: what is told of one is the memory of a batch of texts that are pooled
    free_bytes: int = 0  # on its device, now
    capabilities: list[str] = []  # as of ServedModel, without those that depend on its chat template and vocabulary
    trainable_layers: list[str] = []  # as of EngineInfo


class Weighing(msgspec.Struct, frozen=True, tag=True):
    """What the weighing process says: progress of what is fetched on the way, and a result for each model, in order."""

    stage: str
    done: int
    total: int
    unit: str


WeighMessage = Weighing | Weighed
