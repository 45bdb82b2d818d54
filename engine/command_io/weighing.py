"""Weighed: the memory that a model would need, reported before any model is loaded."""

import msgspec

USUAL_CONTEXT = 4096  # tokens of a usual conversation


class Weighed(msgspec.Struct, frozen=True, tag=True):
    """The memory need of one model, or the reason why it cannot be served."""

    failure: str | None = None
    is_option: bool = False  # the failure is a wrong option, not the model
    device: str = "cpu"  # that the model runs on; "cuda:0" is another memory than the host's
    weight_bytes: int = 0  # expected bytes of the weights, with a draft model's
    adapter_bytes: int = 0  # bytes that adapters may take
    least_kv_bytes: int = 0  # KV cache of the requested context length, or else of the shortest that makes sense
    most_kv_bytes: int = 0  # KV cache that the model's requests could use at most
    token_kv_bytes: int = 0  # KV cache of one token in all layers, with a draft model's
    usual_kv_bytes: int = 0  # KV cache and recurrent state of USUAL_CONTEXT tokens, or of `longest`
    state_bytes: int = 0  # the recurrent state of one running request; 0 without recurrent layers
    longest: int = 0  # tokens of the longest sequence
    has_kv_cache: bool = True  # False: the kv_bytes are the memory of a batch of texts to pool
    free_bytes: int = 0  # bytes free on the model's device now
    host_free_bytes: int = 0  # bytes free in the host's memory now, if that is not the device's
    capabilities: list[str] = []  # as in a model card, without those that depend on chat template and vocabulary
    trainable_layers: list[str] = []  # kinds of linear layers, such as "q_proj", that an adapter can be trained for

    @property
    def is_on_host(self) -> bool:
        return self.device == "cpu"


class Weighing(msgspec.Struct, frozen=True, tag=True):
    """Progress report of the process that computes models' memory needs, and may download files for that. After the
    reports comes one Weighed per model, in order."""

    stage: str
    done: int
    total: int
    unit: str


WeighMessage = Weighing | Weighed
