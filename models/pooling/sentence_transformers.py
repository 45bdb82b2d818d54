"""Reader of the PoolingScheme in a sentence-transformers folder: modules.json and the files of its modules."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from models.architecture.pooling import TokenPooling
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.hf_config import HFConfig, quote_value, read_json_config, read_text
from models.errors import CheckpointError, UnsupportedModelError
from models.pooling.scheme import DenseProjection, PoolingScheme

MODULES = "modules.json"
_MAX_PROMPTS = 1000
_MODULE_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# Names of poolings: after "pooling_mode_" a flag, and since sentence-transformers 5.4 a value of `pooling_mode`.
_POOLINGS = (
    ("cls_token", "cls", TokenPooling.CLS),
    ("max_tokens", "max", TokenPooling.MAX),
    ("mean_tokens", "mean", TokenPooling.MEAN),
    ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", TokenPooling.MEAN_SQRT_LENGTH),
    ("weightedmean_tokens", "weightedmean", TokenPooling.WEIGHTED_MEAN),
    ("lasttoken", "lasttoken", TokenPooling.LAST),
)
_NAMES = {name: pooling for _, name, pooling in _POOLINGS}


def read_scheme(root: Path) -> PoolingScheme:
    """Read the PoolingScheme of a folder with modules.json.

    Raises UnsupportedModelError for unknown modules, CheckpointError for damaged files.
    """
    modules = _read_modules(root / MODULES)
    pooling = next(module for module in modules if module.kind == "Pooling")
    transformer = next(module for module in modules if module.kind == "Transformer")
    prompts, default_prompt = _prompts(root)
    settings = _settings(root / transformer.path)
    return PoolingScheme(
        _poolings(read_json_config(root / pooling.path / "config.json")),
        tuple(_projection(root / module.path) for module in modules if module.kind == "Dense"),
        normalizes=any(module.kind == "Normalize" for module in modules),
        prompts=prompts,
        default_prompt=default_prompt,
        max_tokens=None
        if settings is None or not settings.has("max_seq_length")
        else settings.integer("max_seq_length"),
    )


@dataclass(frozen=True, slots=True)
class _Module:
    """An entry of modules.json: the class in sentence-transformers, and the folder of its files."""

    kind: str  # the class's name
    path: str  # of its folder, relative to the model's


def _read_modules(path: Path) -> list[_Module]:
    """Read modules.json, which must list a Transformer, a Pooling, any number of Dense, and optionally a Normalize.

    Raises UnsupportedModelError for other modules, and for another order.
    """
    try:
        entries = sorted(json.loads(read_text(path)), key=lambda entry: int(entry["idx"]))
        modules = [_Module(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a list of modules ({error}); fetch the checkpoint again") from None
    for module in modules:
        if module.kind not in _MODULE_KINDS:
            raise UnsupportedModelError(
                f"{path}: module {quote_value(module.kind)} is not supported; supported are {', '.join(_MODULE_KINDS)}"
            )
        if Path(module.path).is_absolute() or ".." in Path(module.path).parts:
            raise CheckpointError(f"{path}: module folder {quote_value(module.path)} lies outside; fetch it again")
    kinds = [module.kind for module in modules]
    num_dense = kinds.count("Dense")
    expected = ["Transformer", "Pooling", *["Dense"] * num_dense, *["Normalize"] * (kinds.count("Normalize") > 0)]
    if kinds != expected:
        raise UnsupportedModelError(
            f"{path}: modules in the order {', '.join(kinds)} are not supported; supported is {', '.join(expected)}"
        )
    return modules


def _poolings(config: HFConfig) -> tuple[TokenPooling, ...]:
    if not config.boolean("include_prompt", True):
        raise UnsupportedModelError(f"{config.source}: include_prompt is false, which is not supported")
    if config.has("pooling_mode"):
        named = config.raw("pooling_mode")
        names = named if isinstance(named, list) else [named]
        if not names or not all(isinstance(name, str) and name in _NAMES for name in names):
            raise UnsupportedModelError(
                f"{config.source}: pooling_mode is {quote_value(named)}; supported are {', '.join(_NAMES)}"
            )
        return tuple(_NAMES[name] for name in names)
    poolings = tuple(pooling for flag, _, pooling in _POOLINGS if config.boolean(f"pooling_mode_{flag}", False))
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
        raise CheckpointError(f"{path}: prompts is {quote_value(prompts)}; it must be an object of texts")
    default = config.raw("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{path}: default_prompt_name is {quote_value(default)}, which is not the name of one of its prompts"
        )
    return dict(prompts), default


def lowercases_texts(root: Path) -> bool:
    """Whether texts must be converted to lower case before they are tokenized."""
    settings = _settings(root)
    return settings is not None and settings.boolean("do_lower_case", False)


def _settings(folder: Path) -> HFConfig | None:
    path = folder / "sentence_bert_config.json"
    return read_json_config(path) if path.is_file() else None
