"""Refusals: why a model is not supported, in the model's own terms, and the nearest that is."""

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from models.config.hf_config import HFConfig, quote_value
from models.errors import ModelError, UnsupportedModelError
from models.families.multimodal import language_model_config, language_model_of
from models.families.name_map import NameMap, Rules
from models.families.registry import FAMILIES, family_of, gguf_architectures, nearest_names

_DRAFTING = (
    "to propose tokens for one other model from that model's hidden states; serve that model, whose drafts come from "
    "--speculative-method"
)
_DRAFT_HEAD = f"a draft head, {_DRAFTING}"
# Files that hold another kind of model, by general.architecture of GGUF or by a part of the class's name.
_NO_MODELS = {
    "clip": "a projector of images or audio (mmproj), which belongs to a language model; serve that model's file",
    "clef": "a model of decisions, which fills fields by a head of its own and generates no text",
    "dflash": _DRAFT_HEAD,
    "eagle3": _DRAFT_HEAD,
    "gemma4-assistant": _DRAFT_HEAD,
}
_NO_MODEL_CLASSES = {
    r"(?i)eagle|dflash|draftmodel|assistant|mtpmodel": _DRAFT_HEAD,
    r"ClefModel": _NO_MODELS["clef"],
}
# Parts of models, by the names of their settings and tensors.
_PARTS = {
    r"\bhc_|_hc_|_hc\.|hyper_connection": "hyper-connections",
    r"compress_(rates|ratios|rope_theta)|compressor": "compressed keys",
    r"index_(n_heads|topk|head_dim)|indexer": "an indexer that chooses positions",
    r"\bo_groups|o_lora_rank": "a grouped output matrix",
    r"num_hash_layers|hash_rout": "routing by a hash of tokens",
    r"ngram": "embeddings of n-grams",
    r"altup": "AltUp's streams",
    r"laurel": "Laurel's low-rank branch",
    r"hidden_size_per_layer|per_layer_(input|token|model|proj)": "embeddings per layer",
    r"kv_shared|shared_kv": "layers that read the keys of other layers",
    r"mamba|\bssm_|time_step_(rank|min)": "state spaces or selective scans",
    r"rwkv|time_mix|wkv|rescale_every": "WKV states",
    r"lru_width|rg_lru": "gated linear recurrences (RG-LRU)",
    r"kda|linear_attn_config": "Kimi's delta rule",
    r"is_encoder_decoder|decoder_start_token_id": "an encoder beside the decoder",
}
# Settings that change nothing of what is computed here.
_BOOKKEEPING = re.compile(
    r"^_|^rope_|dropout|token_id|initializer|image|vision|audio|video|projector|spatial|"
    r"^(architectures|model_type|torch_dtype|dtype|transformers_version|use_cache|auto_map|name_or_path|"
    r"return_dict|output_\w+|pretraining_tp|quantization_config|gradient_checkpointing|"
    r"router_aux_loss_coef|router_z_loss_coef|id2label|label2id|problem_type|"
    r"chunk_size_feed_forward|num_nextn_predict_layers|"
    # They only steer transformers' own kernels.
    r"(mamba_)?chunk_size|use_mamba_kernels|use_mambapy|(mamba_)?ssm_cache_dtype)$"
)
_MAX_LISTED = 6
_LAYER = re.compile(r"(?:layers|blk|blocks|h)\.(\d+)\.")


def refused(config: HFConfig, reason: str = "", tensors: Iterable[str] = ()) -> UnsupportedModelError:
    """Return the error for a config.json whose class no family computes.

    reason: follows "is not supported". tensors: names in the checkpoint, if it is here.
    """
    architecture = config.architecture()
    for pattern, what in _NO_MODEL_CLASSES.items():
        if re.search(pattern, architecture):
            return UnsupportedModelError(f"{config.source} describes {quote_value(architecture)}: {what}")
    text = language_model_config(config)
    name, known = _nearest_by_settings(text, architecture)
    settings = _settings(text)
    unknown = [setting for setting in settings if setting not in known]
    rules = {} if name is None else language_model_of(family_of(name)).names
    unmatched = _unmatched(rules, tensors)
    parts = _parts(unknown, unmatched)
    knowledge = _knowledge(unknown, len(settings), "settings")
    nearest = "" if name is None else f"; nearest by structure is {name}, which {knowledge}"
    return UnsupportedModelError(
        f"architecture {quote_value(architecture)} is not supported{reason}{_has(parts)}{nearest}; "
        f"{nearest_names(architecture, FAMILIES)}; {_remedy(None if unknown or unmatched else name)}"
    )


def _remedy(name: str | None) -> str:
    """Return the end of a refusal. name: the family that knows all settings, and all tensors that are here; or None."""
    if name is None:
        return "a model of another architecture does not run under one of their names"
    return (
        f'if it computes the same as {name}, set "architectures" to ["{name}"] in a copy of its config.json (tensors '
        "that do not fit are then named); otherwise it does not run"
    )


def check_is_model(name: str, source: object, tensors: Container[str] | Iterable[str]) -> None:
    """Raise UnsupportedModelError if a GGUF file is no language model. name: its general.architecture."""
    what = _NO_MODELS.get(name)
    names = list(tensors) if isinstance(tensors, Iterable) else []
    if any(".nextn." in each for each in names) and not any(each.startswith("blk.0.") for each in names):
        what = f"layers for multi-token prediction alone, {_DRAFTING}"
    if what is not None:
        raise UnsupportedModelError(f"{source} (architecture {quote_value(name)}) is {what}")


def refused_gguf(name: str, tensors: Iterable[str]) -> UnsupportedModelError:
    """Return the error for a GGUF file whose general.architecture no family computes."""
    tensors = list(tensors)
    by_name = nearest_names(name, gguf_architectures())
    counterpart = _transformers_class(name)
    runs = ""
    if counterpart is not None:
        runs = f"; transformers has {counterpart}, whose code may run a folder of its safetensors in 16 or 32 bits"
    kinds = {_LAYER.sub("blk.*.", each): each for each in tensors}  # one tensor of each
    rules_of = {
        entry.gguf: rules
        for architecture, entry in FAMILIES.items()
        if entry.gguf is not None and (rules := family_of(architecture).gguf_names) is not None
    }
    unmatched = {each: len(_unmatched(rules, kinds.values())) for each, rules in rules_of.items()}
    nearest = min(unmatched, key=lambda each: (unmatched[each], len(rules_of[each]), -_likeness(name, each)))
    rest = _unmatched(rules_of[nearest], tensors)
    unknown = list(dict.fromkeys(_LAYER.sub("blk.*.", each) for each in rest))
    return UnsupportedModelError(
        f"GGUF architecture {quote_value(name)} is not supported{_has(_parts((), rest))}{runs}; nearest by structure "
        f"is {nearest}, which {_knowledge(unknown, len(kinds), 'kinds of tensors')}; {by_name}; "
        "no GGUF file of this architecture runs"
    )


def _transformers_class(gguf_name: str) -> str | None:
    """Return the causal class of transformers whose type has the name of a GGUF architecture, or None."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # slow to import

    classes = {_plain(kind.removesuffix("_text")): name for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}
    return classes.get(_plain(gguf_name))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _likeness(name: str, other: str) -> int:
    """Return the number of first characters that two names share."""
    pairs = zip(_plain(name), _plain(other), strict=False)
    return next((index for index, (one, two) in enumerate(pairs) if one != two), min(len(name), len(other)))


# --- nearest by settings ---------------------------------------------------------------------------------------------


def _settings(config: HFConfig) -> list[str]:
    return [
        name
        for name, value in config.fields.items()
        if value not in (None, False, [], {}) and not _BOOKKEEPING.search(name)
    ]


def _nearest_by_settings(config: HFConfig, architecture: str) -> tuple[str | None, set[str]]:
    """Return the class whose family reads most settings of a configuration that describes one of its models, and these.

    None if no family reads half of them.
    """
    known = {name: read for name in FAMILIES if (read := _settings_read(name, config.fields)) is not None}
    settings = set(_settings(config))
    known = {name: read for name, read in known.items() if 2 * len(read & settings) >= len(settings)}
    if not known:
        return None, set()

    def closeness(name: str) -> tuple[int, int, int]:
        read = known[name]
        return len(read & settings), -len(read - config.fields.keys()), _likeness(architecture, name)

    name = max(known, key=closeness)
    return name, known[name]


def _settings_read(architecture: str, fields: Mapping[str, Any]) -> set[str] | None:
    """Return the settings that a family reads of a configuration, or None if they do not describe such a model."""
    config = HFConfig(fields, "config.json")
    try:
        family_of(architecture).describe(config)
    except ModelError:
        return None
    return {name.partition(".")[0] for name in config.reads}


def _unmatched(rules: Rules, tensors: Iterable[str]) -> list[str]:
    """Return the tensors that no rule names."""
    names = NameMap(rules)
    return [each for each in tensors if not names.is_ignored(each) and not names.destinations(each)]


# --- words -----------------------------------------------------------------------------------------------------------


def _parts(settings: Iterable[str], tensors: Iterable[str]) -> list[str]:
    """Return the known parts among settings and tensors, each with the layers that have it, if tensors tell them."""
    layers: dict[str, set[int]] = {}
    for name in (*settings, *tensors):
        for pattern, part in _PARTS.items():
            if re.search(pattern, name):
                found = layers.setdefault(part, set())
                found.update(int(number) for number in _LAYER.findall(name))
    return [f"{_ranges(numbers)} with {part}" if numbers else part for part, numbers in layers.items()]


def _ranges(numbers: set[int]) -> str:
    """Return "layers 0-3, 7" of {0, 1, 2, 3, 7}."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return "layers " + ", ".join("-".join(map(str, run)) for run in runs)


def _has(parts: list[str]) -> str:
    return f"; it has {', '.join(parts)}" if parts else ""


def _knowledge(unknown: list[str], total: int, what: str) -> str:
    if not unknown:
        return f"knows all of its {total} {what}"
    some = ", ".join(unknown[:_MAX_LISTED]) + (", ..." if len(unknown) > _MAX_LISTED else "")
    return f"knows {total - len(unknown)} of its {total} {what}, and not {some}"
