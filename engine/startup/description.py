"""Description of an engine: EngineInfo, with the lines that the operator reads at start-up."""

import time
from collections import Counter

import msgspec
import torch

from engine.config import EngineConfig, LoadFormat, SpeculativeMethod
from engine.protocol import EngineInfo, Quality, TokenizerInfo
from engine.quality.report import describe_quality
from engine.runner.kv_budget import KVBudget, format_bytes
from engine.runner.warmup import WarmUpTimes
from engine.scheduling.kv.groups import KVGroup, peak_blocks
from engine.scheduling.steps.budget import StepBudget
from engine.scheduling.steps.work import ModelWork
from engine.simulation.costs import MeasuredTimes
from engine.simulation.hardware import SimulatedModel
from engine.speculation.settings import SpeculationSettings
from engine.startup.adapter_memory import AdapterMemory
from engine.wording import counted
from models.architecture.kv_layout import KVLayout, kv_dtype_name
from models.decoder import Decoder
from models.loaded_model import LoadedModel
from models.system.cuda import device_uuid
from models.system.memory import is_host
from models.tokenizer.assets import TokenizerAssets
from models.training.trainable_layers import layer_kinds, trainable_layers

_STEP_ROWS = 256  # of a step that computes prompts as fast as the warm-up's


def describe_model(
    config: EngineConfig,
    model: LoadedModel,
    groups: tuple[KVGroup, ...],
    budget: KVBudget,
    adapters: AdapterMemory | None,
    steps: str,
    times: WarmUpTimes,
    quality: Quality | None,
) -> EngineInfo:
    """Describe an engine. adapters: None without --enable-lora. steps: the text from `describe_steps`. config: must
    have max_model_len and max_num_batched_tokens set."""
    assert config.max_model_len is not None
    assert config.max_num_batched_tokens is not None
    return EngineInfo(
        architecture=model.architecture,
        device=str(model.device),
        gpu_uuid=device_uuid(model.device),
        dtype=_dtype_name(model),
        kv_cache_dtype=_kv_dtype_name(model),
        vocab_size=model.vocab_size,
        max_model_len=config.max_model_len,
        block_size=min(group.block_size for group in groups),
        num_blocks=budget.num_blocks,
        kv_bytes=budget.kv_bytes,
        kv_windows=[group.window for group in groups if not group.is_state],
        kv_block_sizes=[group.block_size for group in groups if not group.is_state],
        num_states=budget.num_states,
        weight_bytes=model.weight_bytes,
        adapter_bytes=0 if adapters is None else adapters.device_bytes,
        trainable_layers=[] if adapters is None else _trainable_layers(model),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        tokenizer=tokenizer_info(model.tokenizer),
        generation_defaults=model.generation_defaults,
        notes=[
            _describe_model(model),
            *_describe_kv_cache(config, groups, budget, model),
            *_describe_states(budget),
            *([] if adapters is None else [adapters.note()]),
            f"Context: {config.max_model_len:,} tokens; up to {counted(config.max_num_seqs, 'answer')} at once",
            f"Prompts: {steps}",
            *model.notes,
            *([] if quality is None else [describe_quality(quality)]),
        ],
        warnings=[*dummy_warning(config), *budget.warnings],
        load_format=config.load_format.value,
        weight_formats=model.weight_formats,
        prefill_seconds_per_token=times.prefill_token_s,
        decode_step_s=times.decode_s,
        quality=quality,
    )


def dummy_warning(config: EngineConfig) -> list[str]:
    """Return the warning about random weights; [] for a model's own."""
    if config.load_format is not LoadFormat.DUMMY:
        return []
    return [
        "the weights are random numbers (--load-format dummy), good for measuring speed and memory; every answer is "
        "noise; leave --load-format out to serve the model"
    ]


def describe_speculation(
    spec: SpeculationSettings, draft: LoadedModel | None, *, takes_drafts: bool = True
) -> list[str]:
    """Return the start-up line about speculation, or [] if it is off by the options."""
    if not takes_drafts:
        return [
            "Speculation: off, also for predictions; this model's code cannot restore recurrent states when drafts are "
            "rejected"
        ]
    if spec.method is SpeculativeMethod.NONE:
        return []
    sources = []
    if spec.method is SpeculativeMethod.NGRAM:
        sources.append(f"prompt lookup of {spec.lookup_min} to {spec.lookup_max} tokens")
    if draft is not None:
        sources.append(f"{spec.draft_model} ({format_bytes(draft.weight_bytes)}), {spec.draft_sampling.value} drafts")
    return [f"Speculation: {' and '.join(sources)}; up to {spec.max_tokens} tokens ahead, as many as save time"]


def _describe_model(model: LoadedModel) -> str:
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if is_host(model.device) else ""
    return f"Model: {model.architecture}, {_dtype_name(model)} on {model.device}{threads}"


def _trainable_layers(model: LoadedModel) -> list[str]:
    if model.family is None:  # transformers' code, through which no gradients are computed
        return []
    assert isinstance(model.decoder, Decoder)
    return layer_kinds(trainable_layers(model.decoder, model.family.names))


def _dtype_name(model: LoadedModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _kv_dtype_name(model: LoadedModel) -> str:
    has_keys = any(isinstance(layout, KVLayout) for layout in model.cache_layout.layers)
    return kv_dtype_name(model.compute.kv_dtype) if has_keys else ""


def _describe_kv_cache(
    config: EngineConfig, groups: tuple[KVGroup, ...], budget: KVBudget, model: LoadedModel
) -> list[str]:
    """Return the start-up line about the KV cache, or [] if the model has no attention."""
    if all(group.is_state for group in groups):
        return []
    assert config.max_model_len is not None
    example = min(512, config.max_model_len)
    sizes = " or ".join(map(str, sorted({group.block_size for group in groups if not group.is_state})))
    return [
        f"KV cache: {budget.num_blocks:,} blocks of {sizes} tokens{_describe_groups(groups, budget)}, "
        f"{format_bytes(budget.kv_bytes)} in {_kv_dtype_name(model)} ({budget.reason}); "
        f"room for {counted(budget.num_blocks // peak_blocks(groups, example), 'request')} of {example} tokens"
    ]


def _describe_states(budget: KVBudget) -> list[str]:
    """Return the start-up line about recurrent states, or [] if the model has no recurrent layers."""
    if not budget.num_states:
        return []
    beside = " besides the KV cache" if budget.num_blocks else ", and no KV cache"
    return [
        f"Recurrent states: {budget.num_states:,} of {format_bytes(budget.state_bytes // budget.num_states)}, "
        f"{format_bytes(budget.state_bytes)}{beside}; a running request needs one, the others are "
        "checkpoints of cached prefixes"
    ]


def _describe_groups(all_groups: tuple[KVGroup, ...], budget: KVBudget) -> str:
    """Return a text such as " = 8,192 tokens", or " for 7 groups of layers (1 full, 6 with a window of 512)"."""
    groups = tuple(group for group in all_groups if not group.is_state)
    if groups == (KVGroup(groups[0].block_size),):
        return f" = {budget.num_blocks * groups[0].block_size:,} tokens"
    counts = Counter(_describe_window(group) for group in groups)
    kinds = [f"{count} {window}" for window, count in counts.items()]
    return f" for {counted(len(groups), 'group')} of layers ({', '.join(kinds)})"


def _describe_window(group: KVGroup) -> str:
    if group.window is None:
        return "full"
    return f"with {'chunks' if group.is_chunked else 'a window'} of {group.window:,}"


def tokenizer_info(assets: TokenizerAssets) -> TokenizerInfo:
    return msgspec.convert(assets, TokenizerInfo, from_attributes=True)


def describe_steps(config: EngineConfig, budget: StepBudget, seconds_per_token: float) -> str:
    """Describe the chunks in which prompts are computed. seconds_per_token: of a prompt, as the warm-up measured it."""
    if config.max_num_batched_tokens is not None:
        return f"read in chunks of up to {config.max_num_batched_tokens:,} tokens"
    return (
        f"read in chunks of {counted(budget.tokens(0), 'token')} ({budget.target_s(0):.2g} s), or of "
        f"{budget.tokens(1):,} ({budget.target_s(1):.2g} s) while answers are generated; "
        f"{1 / seconds_per_token:,.0f} tokens/s at the start"
    )


def simulated_model(
    config: EngineConfig, info: EngineInfo, work: ModelWork | None, groups: tuple[KVGroup, ...], times: WarmUpTimes
) -> bytes:
    """Return the model as simulations need it, in JSON, with steps as long as the warm-up's; empty for
    transformers' code, whose work is not known."""
    if work is None:
        return b""
    rows = min(_STEP_ROWS, info.max_model_len)
    points = {1: times.decode_s, rows: max(times.decode_s, rows * times.prefill_token_s)}
    return msgspec.json.encode(
        SimulatedModel(
            model=config.model,
            hardware="this machine",
            source=f"a prefill and a decode step of the start ({time.strftime('%Y-%m-%d', time.gmtime())})",
            work=work,
            kv_groups=groups,
            num_blocks=info.num_blocks,
            num_states=info.num_states,
            max_model_len=info.max_model_len,
            is_gpu=info.device != "cpu",
            weight_bytes=info.weight_bytes,
            kv_bytes=info.kv_bytes,
            measured=MeasuredTimes(tuple(points.items()), ((1, 0.0),), 0.0, 0.0),
        )
    )
