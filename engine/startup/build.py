"""Everything between an EngineConfig and a running engine: find, load, size, warm up."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from engine.config import Device, EngineConfig, ModelImpl, Quantization
from engine.draft_model.load import load_draft, make_drafter, resolve_draft
from engine.draft_model.model import DraftModel
from engine.engine import Engine
from engine.errors import OptionError, StartupError
from engine.protocol import EngineInfo, Quality, TokenizerInfo
from engine.quality.report import QualityReport
from engine.runner.kv_budget import KVBudget, plan_kv_budget
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.runner.warmup import warm_up
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.step_budget import StepBudget
from engine.speculation.ngram import NgramProposer
from engine.speculation.settings import SpeculationSettings, speculation_settings
from engine.speculation.speculator import Speculator
from engine.startup.description import describe, describe_speculation, describe_steps, tokenizer_info
from engine.startup.malloc import keep_freed_memory
from engine.startup.threads import compute_threads
from models.config.overrides import parse_overrides
from models.errors import ModelError, SettingError, is_out_of_memory
from models.kernels.cpu.library import set_num_threads
from models.kv_cache import bytes_per_block, bytes_per_state, unshared_bytes_per_block
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.loading.open import check_config
from models.progress import ProgressReport
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles, resolve_model
from models.system.memory import free_memory_bytes
from models.weight_cache.store import WeightStore

_USE_TRANSFORMERS = {ModelImpl.AUTO: None, ModelImpl.HEADRACE: False, ModelImpl.TRANSFORMERS: True}


def _ignore(*_: object) -> None:
    """The callback of a caller that does not listen."""


@contextlib.contextmanager
def _memory_shortage_told() -> Iterator[None]:
    """Raise StartupError where memory is refused beside the weights, whose own shortage the loader tells."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and not is_out_of_memory(error):
            raise
        raise StartupError(
            "memory ran out after the weights were loaded; make the KV cache smaller (--kv-cache-memory-bytes), choose "
            "a smaller model or fewer bits (--quantization int4), or raise the limit of this process (ulimit -v)"
        ) from error


@_memory_shortage_told()
def build_engine(
    config: EngineConfig, report: ProgressReport, on_tokenizer: Callable[[TokenizerInfo], None] = _ignore
) -> tuple[Engine, EngineInfo]:
    """Load the model and return an engine that is ready for requests.

    on_tokenizer is called as soon as the tokenizer is known, before the weights are loaded. Raises
    StartupError with a message for the user if the model, an option or the memory will not do.
    """
    device = _choose_device(config.device)
    if device.type == "cpu":
        set_num_threads(compute_threads(config.threads))
    spec = speculation_settings(config)
    model, draft, quality = _load(config, spec, device, report, on_tokenizer)
    groups = kv_groups(model.layer_groups, config.block_size)
    budget = _plan_memory(config, model, draft, groups)
    for each in (model, draft):
        if each is not None:
            each.decoder.serve_context(min(budget.max_model_len, each.max_position))
    drafter = None
    if draft is not None:
        drafter = make_drafter(spec, model, draft, num_blocks=budget.num_blocks, block_size=config.block_size)
    runner, seconds_per_token = _warm_runner(config, model, budget, drafter, report)
    step_budget = StepBudget(config.max_num_batched_tokens, seconds_per_token)
    steps = describe_steps(config, step_budget, seconds_per_token)
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
    info = describe(config, model, groups, budget, steps, quality)
    info.notes.extend(describe_speculation(spec, draft))
    return engine, info


def _load(
    config: EngineConfig,
    spec: SpeculationSettings,
    device: torch.device,
    report: ProgressReport,
    on_tokenizer: Callable[[TokenizerInfo], None],
) -> tuple[LoadedModel, LoadedModel | None, Quality | None]:
    """The model, its draft model if there is one, and what quantization costs it, where that is known."""
    draft_files = resolve_draft(spec, report)  # first: a misspelled name should not wait for the model
    try:
        files = resolve_model(
            config.model,
            config.revision,
            report,
            check=lambda files: check_config(
                files, _overrides(config), use_transformers=_USE_TRANSFORMERS[config.model_impl]
            ),
        )
        quality_report = QualityReport(config, files, device, report)
        quality_report.before_loading()
        model = _load_target(config, files, device, report, on_tokenizer)
        quality = quality_report.after_loading(model)
    except SettingError as error:
        raise OptionError(str(error)) from error
    except ModelError as error:
        raise StartupError(str(error)) from error
    draft = None
    if draft_files is not None:
        # A draft is read whole for every token, and its head and embeddings are much of it.
        weights = weight_options(spec.draft_quantization, includes_head=True)
        store = _weight_store(config)
        draft = load_draft(spec, draft_files, model, weights=weights, weight_store=store, report=report)
    return model, draft, quality


def _plan_memory(
    config: EngineConfig, model: LoadedModel, draft: LoadedModel | None, groups: tuple[KVGroup, ...]
) -> KVBudget:
    """What is left beside the weights, divided between KV blocks and recurrent states."""
    draft_bytes = 0 if draft is None else unshared_bytes_per_block(draft, config.block_size)
    return plan_kv_budget(
        config,
        groups=groups,
        bytes_per_block=bytes_per_block(model, config.block_size) + draft_bytes,
        bytes_per_state=bytes_per_state(model),
        model_max_len=model.max_position,
        free_bytes=max(0, free_memory_bytes(model.device) - _mapped_bytes(model, draft)),
        device=model.device,
    )


def _mapped_bytes(*models: LoadedModel | None) -> int:
    """What the system calls free, as it can be read again, and what every step uses. (In a container that another one
    has read the file for, it is no part of the free memory, and the KV cache is smaller than it might be.)"""
    return sum(model.mapped_bytes for model in models if model is not None)


def _warm_runner(
    config: EngineConfig, model: LoadedModel, budget: KVBudget, drafter: DraftModel | None, report: ProgressReport
) -> tuple[TorchRunner, float]:
    """A runner whose first step is as fast as any other, and the seconds that a prompt's token takes it."""
    runner = TorchRunner(
        model,
        num_blocks=budget.num_blocks,
        block_size=config.block_size,
        num_states=budget.num_states,
        draft_probs=None if drafter is None else drafter.probabilities,
    )
    if model.device.type == "cpu":
        keep_freed_memory()
    seconds_per_token = warm_up(
        runner,
        num_blocks=budget.num_blocks,
        block_size=config.block_size,
        report=lambda done, total: report("warm up", done, total, "steps"),
    )
    runner.end_warm_up()
    return runner, seconds_per_token


def weight_options(quantization: Quantization, *, includes_head: bool, group_size: int | None = None) -> WeightOptions:
    """How the loader is to hold weights for an option of the user's."""
    encodings = {
        Quantization.FP8: Encoding.FP8_E4M3,
        Quantization.INT8: Encoding.INT8,
        Quantization.INT4: Encoding.INT4,
        Quantization.NF4: Encoding.NF4,
    }
    return WeightOptions(
        keeps_quantized=quantization is not Quantization.NONE,
        quantize_to=encodings.get(quantization),
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
    options = LoadOptions(
        dtype=config.dtype.value,
        device=str(device),
        generation_config=config.generation_config,
        weights=weight_options(
            config.quantization, includes_head=config.quantize_head, group_size=config.quantization_group_size
        ),
        overrides=_overrides(config),
        use_transformers=_USE_TRANSFORMERS[config.model_impl],
        weight_store=_weight_store(config),
    )
    return load_model(files, options, report, on_tokenizer=lambda assets: on_tokenizer(tokenizer_info(assets)))


def _weight_store(config: EngineConfig) -> WeightStore | None:
    return WeightStore() if config.weight_cache else None


def _overrides(config: EngineConfig) -> dict[str, Any]:
    return parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)


def _speculator(spec: SpeculationSettings, drafter: DraftModel | None) -> Speculator:
    """With prompt lookup in any case, which a benchmark may switch on."""
    lookup = NgramProposer(spec.lookup_min, spec.lookup_max)
    return Speculator(spec.max_tokens, lookups=[lookup], drafter=drafter, sources=spec.sources)


def _choose_device(wanted: Device) -> torch.device:
    if wanted is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted is Device.CUDA and not torch.cuda.is_available():
        raise StartupError(
            "--device is cuda, but this torch finds no CUDA device; install a CUDA build of torch, check the driver "
            "with nvidia-smi, or use --device cpu"
        )
    return torch.device(wanted.value)
