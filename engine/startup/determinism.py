"""Requirements of --deterministic, and the refusal of a model that lacks one."""

from collections.abc import Iterator

import torch

from engine.config import EngineConfig
from engine.errors import OptionError
from models.architecture.recurrence import StateSpec
from models.decoder import Decoder
from models.kernels.cpu.library import allow_amx
from models.layers.moe import MoE
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.native import NativeLinearMethod
from models.linear.per_head import PerHeadLinear
from models.loaded_model import LoadedModel
from models.system.memory import is_host

_TILE = 16  # positions that attention's kernel adds up together
_LANES = 16  # of products with a matrix per head


def prepare_determinism(config: EngineConfig, model: LoadedModel) -> None:
    """With --deterministic, compute without AMX from now on; else with it.

    Raises OptionError if the option is given and rows of the model are computed in an order that depends on how many a
    step has.
    """
    allow_amx(not config.deterministic)
    for reason in _obstacles(config, model) if config.deterministic else ():
        raise OptionError(f"--deterministic does not hold for {config.model}: {reason}, or leave the option out")


def describe_exactness(config: EngineConfig, model: LoadedModel) -> list[str]:
    """Return the start-up line about answers that are the same to the bit, or about AMX, which prevents it; or []."""
    if config.deterministic:
        return ["Exactness: to the bit, whatever is computed beside a request (--deterministic: without AMX)"]
    if model.compute.ops.level == "amx" and model.dtype == torch.bfloat16:
        return [
            "Exactness: AMX rounds products of many rows otherwise than those of few, so texts may differ with what is "
            "computed beside them and with the prefix cache; --deterministic prevents it"
        ]
    return []


def _obstacles(config: EngineConfig, model: LoadedModel) -> Iterator[str]:
    """Yield each obstacle with its remedy."""
    if not is_host(model.device):
        yield f"it needs the CPU's kernels, and the device is {model.device}; choose --device cpu"
    if not isinstance(model.decoder, Decoder):
        yield "transformers' code computes the model (--model-impl); choose a model that headrace implements"
        return
    if model.dtype != torch.bfloat16:
        name = str(model.dtype).removeprefix("torch.")
        yield f"activations are in {name}, and the kernels hold it in bfloat16; choose --dtype bfloat16"
    if model.compute.ops.level == "torch" or model.compute.backend.name != "cpu":
        yield (
            "torch computes attention or other layers, not the native kernels (the log says why); choose another model"
        )
    if any(isinstance(mixer, StateSpec) for mixer in model.decoder.mixers):
        yield "it has recurrent layers, which add up long parts of a prompt otherwise than short ones; choose another"
    if config.block_size % _TILE:
        yield f"--block-size is {config.block_size}; make it a multiple of {_TILE}"
    for name, layer in model.decoder.named_modules():
        if isinstance(layer, MoE) and layer.is_in_torch:
            yield f"torch computes the experts of {name}, for which there is no kernel; choose another --quantization"
        if isinstance(layer, PerHeadLinear) and layer.is_in_torch:
            yield f"torch multiplies by {name}, whose sizes are not multiples of {_LANES}; choose another model"
        if isinstance(layer, Embedding) and layer is not model.decoder.head:  # only looked up
            continue
        if isinstance(layer, Linear) and not isinstance(layer.method, NativeLinearMethod):
            yield f"there is no native kernel for the format or the size of {name}; choose another --quantization"
