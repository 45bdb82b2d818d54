"""Everything between an EngineConfig and a running engine: find, load, size, warm up."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from engine.config import Device, EngineConfig, Quantization, SpeculativeMethod
from engine.cores import usable_cores
from engine.engine import Engine
from engine.errors import StartupError
from engine.freed_memory import keep_freed_memory
from engine.kv.groups import KVGroup, most_blocks
from engine.protocol import EngineInfo, Quality, TokenizerInfo
from engine.quality.report import QualityReport, describe_quality
from engine.runner.kv_tensors import bytes_per_block, bytes_per_state, kv_groups, unshared_bytes_per_block
from engine.runner.memory import KVBudget, format_bytes, plan_kv_budget
from engine.runner.runner import TorchRunner
from engine.spec.draft_load import load_draft, make_drafter, resolve_draft
from engine.spec.draft_model import DraftModel
from engine.spec.ngram import NgramProposer
from engine.spec.settings import SpecSettings, spec_settings
from engine.spec.speculator import Speculator
from engine.step_budget import StepBudget
from engine.warmup import warm_up
from models.config_overrides import parse_overrides
from models.errors import ModelError
from models.free_memory import free_memory_bytes
from models.implementation import ModelImpl
from models.kernels.cpu.library import set_num_threads
from models.loaded import LoadedModel, TokenizerAssets
from models.loader import check_folder, load_model
from models.quant.select import WeightOptions
from models.quant.tensor import Encoding
from models.sources import ModelFiles, resolve_model

ProgressReport = Callable[[str, int, int, str], None]


def _ignore(*_: object) -> None:
    """The callback of a caller that does not listen."""


def build_engine(
    config: EngineConfig, report: ProgressReport, on_tokenizer: Callable[[TokenizerInfo], None] = _ignore
) -> tuple[Engine, EngineInfo]:
    """Load the model and return an engine that is ready for requests.

    on_tokenizer is called as soon as the tokenizer is known, before the weights are loaded. Raises
    StartupError with a message for the user if the model, an option or the memory will not do.
    """
    device = _choose_device(config.device)
    if device.type == "cpu":
        set_num_threads(config.threads or usable_cores())
    spec = spec_settings(config)
    draft_files = resolve_draft(spec, report)  # first: a misspelt name should not wait for the model
    try:
        files = resolve_model(
            config.model,
            config.revision,
            report,
            check=lambda folder: check_folder(folder, _overrides(config), ModelImpl(config.model_impl.value)),
        )
        quality_report = QualityReport(config, files, device, report)
        quality_report.before()
        model = _load_target(config, files, device, report, on_tokenizer)
        quality = quality_report.after(model)
    except ModelError as error:
        raise StartupError(str(error)) from error
    draft = None
    if draft_files is not None:
        # A draft is read whole for every token, and its head and embeddings are much of it.
        weights = weight_options(spec.draft_quantization, includes_head=True)
        draft = load_draft(spec, draft_files, model, weights=weights, report=report)
    groups = kv_groups(model.layer_groups, config.block_size)
    budget = plan_kv_budget(
        config,
        groups=groups,
        bytes_per_block=bytes_per_block(model, config.block_size)
        + (0 if draft is None else unshared_bytes_per_block(draft, config.block_size)),
        bytes_per_state=bytes_per_state(model),
        model_max_len=model.max_position,
        free_bytes=free_memory_bytes(device),
        device=device,
    )
    for each in (model, draft):
        if each is not None:
            each.decoder.serve_context(min(budget.max_model_len, each.max_position))
    drafter = None
    if draft is not None:
        drafter = make_drafter(spec, model, draft, num_blocks=budget.num_blocks, block_size=config.block_size)
    runner = TorchRunner(
        model,
        num_blocks=budget.num_blocks,
        block_size=config.block_size,
        num_states=budget.num_states,
        draft_probs=None if drafter is None else drafter.probabilities,
    )
    if device.type == "cpu":
        keep_freed_memory()
    seconds_per_token = warm_up(
        runner,
        num_blocks=budget.num_blocks,
        block_size=config.block_size,
        report=lambda done, total: report("warm up", done, total, "steps"),
    )
    runner.end_warm_up()
    step_budget = StepBudget(config.max_num_batched_tokens, seconds_per_token)
    steps = _describe_steps(config, step_budget, seconds_per_token)
    config = dataclasses.replace(
        config, max_model_len=budget.max_model_len, max_num_batched_tokens=step_budget.max_tokens
    )
    engine = Engine(
        config,
        runner,
        num_blocks=budget.num_blocks,
        num_states=budget.num_states,
        eos_token_ids=model.tokenizer.eos_token_ids,
        budget=step_budget,
        speculator=_speculator(spec, drafter),
    )
    info = _describe(config, model, groups, budget, steps, quality)
    info.notes.extend(_describe_speculation(spec, draft))
    return engine, info


def weight_options(quantization: Quantization, *, includes_head: bool, group_size: int | None = None) -> WeightOptions:
    """How the loader is to hold weights for an option of the user's."""
    encodings = {
        Quantization.FP8: Encoding.FP8_E4M3,
        Quantization.INT8: Encoding.INT8,
        Quantization.INT4: Encoding.INT4,
        Quantization.NF4: Encoding.NF4,
    }
    return WeightOptions(
        keeps_quantised=quantization is not Quantization.NONE,
        quantise_to=encodings.get(quantization),
        includes_head=includes_head,
        group_size=group_size,
    )


def _load_target(
    config: EngineConfig,
    files: ModelFiles,
    device: torch.device,
    report: ProgressReport,
    on_tokenizer: Callable[[TokenizerInfo], None],
) -> LoadedModel:
    return load_model(
        files,
        dtype=config.dtype.value,
        device=str(device),
        generation_config=config.generation_config,
        weights=weight_options(
            config.quantization, includes_head=config.quantize_head, group_size=config.quantization_group_size
        ),
        overrides=_overrides(config),
        model_impl=ModelImpl(config.model_impl.value),
        progress=report,
        on_tokenizer=lambda assets: on_tokenizer(_tokenizer_info(assets)),
    )


def _overrides(config: EngineConfig) -> dict[str, Any]:
    return parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)


def _speculator(spec: SpecSettings, drafter: DraftModel | None) -> Speculator:
    """With prompt lookup in any case, which a benchmark may switch on."""
    lookup = NgramProposer(spec.lookup_min, spec.lookup_max)
    return Speculator(spec.max_tokens, lookups=[lookup], drafter=drafter, sources=spec.sources)


def _describe_steps(config: EngineConfig, budget: StepBudget, seconds_per_token: float) -> str:
    if config.max_num_batched_tokens is not None:
        return f"steps of up to {config.max_num_batched_tokens:,} tokens"
    return (
        f"steps of {budget.tokens(0):,} tokens, {budget.tokens(1):,} beside generation, adapted to what takes 500 and "
        f"250 ms ({1 / seconds_per_token:,.0f} prompt tokens/s at warm-up)"
    )


def _choose_device(wanted: Device) -> torch.device:
    if wanted is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted is Device.CUDA and not torch.cuda.is_available():
        raise StartupError(
            "--device is cuda, but this torch finds no CUDA device; install a CUDA build of torch, check the driver "
            "with nvidia-smi, or use --device cpu"
        )
    return torch.device(wanted.value)


def _describe_speculation(spec: SpecSettings, draft: LoadedModel | None) -> list[str]:
    """A line for the operator, where drafts were asked for."""
    if spec.method is SpeculativeMethod.NONE:
        return []
    sources = []
    if spec.method is SpeculativeMethod.NGRAM:
        sources.append(f"prompt lookup of {spec.lookup_min} to {spec.lookup_max} tokens")
    if draft is not None:
        sources.append(f"{spec.draft_model} ({format_bytes(draft.weight_bytes)}), {spec.draft_sampling.value} drafts")
    return [f"Speculation: {' and '.join(sources)}, up to {spec.max_tokens} tokens, as many as pay"]


def _describe(
    config: EngineConfig,
    model: LoadedModel,
    groups: tuple[KVGroup, ...],
    budget: KVBudget,
    steps: str,
    quality: Quality | None,
) -> EngineInfo:
    max_model_len, max_batched = config.max_model_len, config.max_num_batched_tokens
    assert max_model_len is not None
    assert max_batched is not None
    example = min(512, max_model_len)
    dtype = str(model.dtype).removeprefix("torch.")
    threads = f", {torch.get_num_threads()} threads" if model.device.type == "cpu" else ""
    notes = [
        f"Model: {model.architecture}, {dtype} on {model.device}{threads}",
        f"KV cache: {budget.num_blocks:,} blocks of {config.block_size} tokens{_describe_groups(groups, budget)}, "
        f"{format_bytes(budget.kv_bytes)} ({budget.reason}); "
        f"up to {budget.num_blocks // most_blocks(groups, example)} requests of {example} tokens",
        *_describe_states(budget),
        f"Context: {max_model_len:,} tokens; {steps}, {config.max_num_seqs:,} sequences at once",
        *model.notes,
        *([] if quality is None else [describe_quality(quality)]),
    ]
    return EngineInfo(
        architecture=model.architecture,
        device=str(model.device),
        dtype=dtype,
        vocab_size=model.vocab_size,
        max_model_len=max_model_len,
        block_size=config.block_size,
        num_blocks=budget.num_blocks,
        kv_bytes=budget.kv_bytes,
        kv_windows=[group.window for group in groups if not group.is_state],
        num_states=budget.num_states,
        weight_bytes=model.weight_bytes,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max_batched,
        tokenizer=_tokenizer_info(model.tokenizer),
        generation_defaults=model.generation_defaults,
        notes=notes,
        weight_formats=model.weight_formats,
        quality=quality,
    )


def _describe_states(budget: KVBudget) -> list[str]:
    """A line, where the model has recurrent layers."""
    if not budget.num_states:
        return []
    return [
        f"Recurrent states: {budget.num_states:,} of {format_bytes(budget.state_bytes // budget.num_states)}, "
        f"{format_bytes(budget.state_bytes)} beside the KV cache; a running request needs one, the others are "
        "checkpoints of cached prefixes"
    ]


def _describe_groups(all_groups: tuple[KVGroup, ...], budget: KVBudget) -> str:
    """Such as " = 8,192 tokens", or " for 7 groups of layers (1 full, 6 with a window of 512)"."""
    groups = tuple(group for group in all_groups if not group.is_state)
    if groups == (KVGroup(groups[0].block_size),):
        return f" = {budget.num_blocks * groups[0].block_size:,} tokens"
    counts = Counter(_describe_reach(group) for group in groups)
    kinds = [f"{count} {reach}" for reach, count in counts.items()]
    return f" for {len(groups)} group{'s' if len(groups) > 1 else ''} of layers ({', '.join(kinds)})"


def _describe_reach(group: KVGroup) -> str:
    if group.window is None:
        return "full"
    return f"with {'chunks' if group.is_chunked else 'a window'} of {group.window:,}"


def _tokenizer_info(assets: TokenizerAssets) -> TokenizerInfo:
    return TokenizerInfo(
        tokenizer_json=assets.tokenizer_json,
        chat_template=assets.chat_template,
        special_tokens=assets.special_tokens,
        bos_token_id=assets.bos_token_id,
        eos_token_ids=assets.eos_token_ids,
        add_bos_token=assets.add_bos_token,
    )
