"""read_scheme: the PoolingScheme of a folder, from modules.json and what sentence-transformers puts beside it."""

from pathlib import Path

import torch

from models.architecture.pooling import TokenPooling
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.hf_config import HFConfig, quoted, read_json_config
from models.errors import CheckpointError, UnsupportedModelError
from models.pooling.module_list import Module, read_modules
from models.pooling.scheme import DenseProjection, PoolingScheme

MODULES = "modules.json"
_MAX_PROMPTS = 1000
_MODES = {
    "pooling_mode_cls_token": TokenPooling.CLS,
    "pooling_mode_max_tokens": TokenPooling.MAX,
    "pooling_mode_mean_tokens": TokenPooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": TokenPooling.MEAN_SQRT_LENGTH,
    "pooling_mode_weightedmean_tokens": TokenPooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": TokenPooling.LAST,
}
_NAMES = {  # since sentence-transformers 5.4: one field
    "cls": TokenPooling.CLS,
    "max": TokenPooling.MAX,
    "mean": TokenPooling.MEAN,
    "mean_sqrt_len_tokens": TokenPooling.MEAN_SQRT_LENGTH,
    "weightedmean": TokenPooling.WEIGHTED_MEAN,
    "lasttoken": TokenPooling.LAST,
}


def read_scheme(root: Path) -> PoolingScheme:
    """Raises UnsupportedModelError for modules that are not known, and CheckpointError for files that are damaged."""
    modules = read_modules(root / MODULES)
    pooling = next(module for module in modules if module.kind == "Pooling")
    transformer = next(module for module in modules if module.kind == "Transformer")
    prompts, default_prompt = _prompts(root)
    return PoolingScheme(
        _poolings(_config_of(root, pooling)),
        tuple(_projection(root / module.path) for module in modules if module.kind == "Dense"),
        normalizes=any(module.kind == "Normalize" for module in modules),
        prompts=prompts,
        default_prompt=default_prompt,
        max_tokens=_max_tokens(root / transformer.path),
    )


def _config_of(root: Path, module: Module) -> HFConfig:
    return read_json_config(root / module.path / "config.json")


def _poolings(config: HFConfig) -> tuple[TokenPooling, ...]:
    if not config.boolean("include_prompt", True):
        raise UnsupportedModelError(f"{config.source}: include_prompt is false, which is not supported")
    if config.has("pooling_mode"):
        named = config.raw("pooling_mode")
        names = named if isinstance(named, list) else [named]
        if not names or not all(isinstance(name, str) and name in _NAMES for name in names):
            raise UnsupportedModelError(
                f"{config.source}: pooling_mode is {quoted(named)}; supported are {', '.join(_NAMES)}"
            )
        return tuple(_NAMES[name] for name in names)
    poolings = tuple(pooling for name, pooling in _MODES.items() if config.boolean(name, False))
    if not poolings:
        raise CheckpointError(f"{config.source} chooses no pooling; fetch the checkpoint again")
    return poolings


def _projection(folder: Path) -> DenseProjection:
    config = read_json_config(folder / "config.json")
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in ("Tanh", "Identity"):
        raise UnsupportedModelError(
            f"{config.source}: activation_function is {activation}; supported are Tanh and Identity"
        )
    tensors = SafetensorsCheckpoint(folder).tensors
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    shape = (config.integer("out_features"), config.integer("in_features"))
    if weight is None or tuple(weight.shape) != shape or weight.read is None:
        raise CheckpointError(f"{folder} has no linear.weight of shape {list(shape)}; fetch the checkpoint again")
    if bias is not None and (tuple(bias.shape) != shape[:1] or bias.read is None):
        raise CheckpointError(f"{folder}: linear.bias does not fit linear.weight; fetch the checkpoint again")
    return DenseProjection(
        weight.read(torch.float32),
        None if bias is None or bias.read is None else bias.read(torch.float32),
        has_tanh=activation == "Tanh",
    )


def _prompts(root: Path) -> tuple[dict[str, str], str | None]:
    path = root / "config_sentence_transformers.json"
    if not path.is_file():
        return {}, None
    config = read_json_config(path)
    prompts = config.raw("prompts") or {}
    is_known = isinstance(prompts, dict) and len(prompts) <= _MAX_PROMPTS
    if not is_known or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{path}: prompts is {quoted(prompts)}; it must be an object of texts")
    default = config.raw("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{path}: default_prompt_name is {quoted(default)}, which is not the name of one of its prompts"
        )
    return dict(prompts), default


def _max_tokens(folder: Path) -> int | None:
    """`max_seq_length` of the transformer's own settings."""
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return None
    config = read_json_config(path)
    return config.integer("max_seq_length") if config.has("max_seq_length") else None


def lowers_case(root: Path) -> bool:
    """Whether texts are put in lower case before the tokenizer has them."""
    path = root / "sentence_bert_config.json"
    return path.is_file() and read_json_config(path).boolean("do_lower_case", False)
