"""Construction of an engine from an EngineConfig: loads the models, divides the memory, and warms up."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import torch

from engine.adapters.model_source import ModelAdapters
from engine.adapters.service import AdapterService
from engine.child_processes.allocator import retain_freed_memory
from engine.child_processes.fault_plan import FaultPlan
from engine.client.interface import ignore
from engine.config import EngineConfig
from engine.draft_model.load import draft_block_bytes, make_drafter
from engine.draft_model.model import DraftModel
from engine.engine import Engine
from engine.errors import StartupError
from engine.faults.wrappers import FaultyRunner
from engine.grammar.compiler import GrammarCompiler
from engine.grammar.vocabulary import TokenizerSource
from engine.protocol import AdapterLoaded, AdapterRefused, EngineInfo, TokenizerInfo
from engine.protocol.served_engine import ServedEngine
from engine.runner.device_memory import DeviceMemory, measure_device
from engine.runner.executors.graphs import describe_capture
from engine.runner.kv_budget import KVBudget, format_bytes, plan_kv_budget
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.runner.warmup import WarmUpTimes, warm_up
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.kv.moves import AttachedTier
from engine.scheduling.steps.budget import CPU_STEPS, GPU_STEPS, StepBudget, StepTargets
from engine.speculation.ngram import NgramProposer
from engine.speculation.settings import SpeculationSettings, speculation_settings
from engine.speculation.speculator import Speculator
from engine.startup.adapter_memory import AdapterMemory, adapter_memory
from engine.startup.description import describe_model, describe_speculation, describe_steps, simulated_model
from engine.startup.determinism import describe_exactness, prepare_determinism
from engine.startup.device import choose_device
from engine.startup.early import compute_threads
from engine.startup.events import describe_publisher, open_publisher
from engine.startup.identity import system_fingerprint
from engine.startup.load import EngineModels, load_models
from engine.startup.pooling import build_pooling_engine, check_pooling_options
from engine.startup.tier import describe_tier, memory_warning, open_tier, reserved_bytes
from engine.wording import counted
from models.errors import is_out_of_memory
from models.kernels.cpu.library import set_num_threads
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.decoder_adapters import PreparedAdapter
from models.loaded_model import LoadedModel
from models.progress import ProgressReport
from models.system.cache_folder import CALIBRATION_FOLDER, cache_folder
from models.system.cuda_graphs import graphs_of
from models.system.memory import free_memory_bytes, is_host


@contextlib.contextmanager
def _explaining_memory_shortage() -> Iterator[None]:
    """Convert out-of-memory errors to StartupError, except errors while weights are loaded, which the loader
    reports."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and not is_out_of_memory(error):
            raise
        raise StartupError(
            "memory ran out after the weights were loaded; make the KV cache smaller (--kv-cache-memory-bytes), choose "
            "a smaller model or fewer bits (--quantization int4), lower --max-num-batched-tokens (the steps of a GPU's "
            "start are the largest), or raise the limit of this process (ulimit -v)"
        ) from error


def build_engine(config: EngineConfig, report: ProgressReport, **callbacks: Any) -> tuple[Engine, EngineInfo]:
    """Build the engine of a model that generates text. callbacks: further arguments of `build_served_engine`.

    Raises StartupError for a model that does not generate, and as `build_served_engine` does.
    """
    engine, info = build_served_engine(config, report, **callbacks)
    if not info.generates:
        raise StartupError(
            f"{info.architecture} makes vectors or scores of texts, and does not generate; choose a model that does, "
            "or let this one generate if it can (--task generate)"
        )
    return cast("Engine", engine), info


@_explaining_memory_shortage()
def build_served_engine(
    config: EngineConfig,
    report: ProgressReport,
    on_tokenizer: Callable[[TokenizerInfo], None] = ignore,
    on_prepared: Callable[[], None] = ignore,
    on_adapter: Callable[[AdapterLoaded | AdapterRefused], None] = ignore,
    on_started: Callable[..., None] = ignore,
    on_progress: Callable[[], None] = ignore,
    faults: FaultPlan | None = None,
    known_times: WarmUpTimes | None = None,
) -> tuple[ServedEngine, EngineInfo]:
    """Load the model and return an engine that is ready to generate text, or to pool texts (embeddings, scores).

    on_tokenizer: called as soon as the tokenizer is known, before the weights are loaded. on_prepared: called from
    another thread when a grammar has been compiled or an adapter read. on_adapter: called with the answer to each
    LoadAdapter. on_started: called with the ids of requests before their first step, and with StepStats by an engine
    that pools texts. on_progress: called often within a step, at least once per layer. faults: faults to inject, for
    tests. known_times: those that an earlier engine with this configuration has measured; on a CPU they are not
    measured again.

    Raises StartupError, with a message for the user, if the model, an option or the memory is not usable.
    """
    device = _prepare_device(config)
    publisher = open_publisher(config)
    spec = speculation_settings(config)
    models = load_models(config, spec, device, report, on_tokenizer)
    if check_pooling_options(config, models.target.pooling):
        models.on_progress(on_progress)
        return build_pooling_engine(config, models.target, report, on_started, faults)
    prepare_determinism(config, models.target)
    groups = kv_groups(models.target.cache_layout, config.block_size)
    adapters = _enable_adapters(config, models.target) if config.enable_lora else None
    device_memory = None
    if not is_host(device):
        report("measure memory", 0, 0, "")
        models.serve_context(config.max_model_len or models.target.max_position)
        device_memory = measure_device(config, models.target, groups, _most_tokens(config, device))
    budget = _plan_memory(config, models, groups, adapters, device_memory)
    models.serve_context(budget.max_model_len)
    models.on_progress(on_progress)
    drafter = make_drafter(spec, models.target, models.draft, num_blocks=budget.num_blocks, groups=groups)
    runner, times = _warm_runner(config, models.target, budget, drafter, report, known_times)
    step_budget = _step_budget(config, runner, times, device)
    engine_config = dataclasses.replace(
        config, max_model_len=budget.max_model_len, max_num_batched_tokens=step_budget.max_tokens
    )
    tier = open_tier(config, models, runner, faults, publisher)
    engine = Engine(
        engine_config,
        runner if faults is None else FaultyRunner(runner, faults),
        num_blocks=budget.num_blocks,
        num_states=budget.num_states,
        eos_token_ids=models.target.tokenizer.eos_token_ids,
        budget=step_budget,
        speculator=_speculator(spec, drafter, takes_drafts=models.target.decoder.takes_drafts),
        grammars=_grammar_compiler(config, models.target, on_prepared),
        adapters=_adapter_service(config, models.target, on_prepared, on_adapter),
        on_started=on_started,
        tier=None if tier is None else AttachedTier(tier, runner, on_prepared, config.kv_persist),
        publisher=publisher,
    )
    steps = describe_steps(config, step_budget, times.prefill_token_s)
    info = msgspec.structs.replace(
        describe_model(engine_config, models.target, groups, budget, adapters, steps, times, models.quality),
        are_steps_timed=config.max_num_batched_tokens is None,
        system_fingerprint=system_fingerprint(config, models),
        calibration_folder=str(cache_folder() / CALIBRATION_FOLDER),
        kv_folder=None if tier is None else str(tier.folder),
        kv_folder_bytes=None if tier is None else tier.max_bytes,
    )
    info = msgspec.structs.replace(info, simulated=simulated_model(config, info, runner.work, groups, times))
    if device_memory is not None:
        info.notes.extend([device_memory.describe(device), describe_capture(models.target, groups)])
    info.notes.extend([*describe_exactness(config, models.target), *describe_tier(config, models.target, tier)])
    info.notes.extend(describe_publisher(config))
    info.notes.extend(describe_speculation(spec, models.draft, takes_drafts=models.target.decoder.takes_drafts))
    return engine, info


def _prepare_device(config: EngineConfig) -> torch.device:
    """Return the device, and set the number of threads if it is the host's."""
    device = choose_device(config.device)
    if is_host(device):
        set_num_threads(compute_threads(config.threads))
    return device


def _plan_memory(
    config: EngineConfig,
    models: EngineModels,
    groups: tuple[KVGroup, ...],
    adapters: AdapterMemory | None,
    device_memory: DeviceMemory | None,
) -> KVBudget:
    """Divide the memory that weights and adapters leave between KV blocks and recurrent states. device_memory: None on
    a CPU."""
    target, draft = models.target, models.draft
    draft_bytes = 0 if draft is None else draft_block_bytes(draft.cache_layout, groups)
    # The system counts mapped weights as free, since it can read them again, but every step uses them. (In a container,
    # if another one has read the file, they are not counted as free: the KV cache is smaller than it could be.)
    if device_memory is None:
        free_bytes, default_bytes = max(0, free_memory_bytes(target.device) - models.mapped_bytes), None
    else:
        free_bytes = device_memory.free_bytes
        has_size = config.kv_cache_memory_bytes is not None
        default_bytes = None if has_size else device_memory.kv_bytes(config.gpu_memory_utilization)
    budget = plan_kv_budget(
        config,
        groups=groups,
        bytes_per_block=target.cache_layout.block_bytes(config.block_size) + draft_bytes,
        bytes_per_state=target.cache_layout.state_bytes,
        model_max_len=target.max_position,
        free_bytes=free_bytes,
        reserved_bytes=reserved_bytes(config, target.device)
        + (0 if adapters is None else adapters.reserved_bytes(free_bytes)),
        default_bytes=default_bytes,
    )
    cache_bytes = budget.kv_bytes + budget.state_bytes
    warnings = [memory_warning(config, target.device, cache_bytes, free_bytes)]
    if adapters is not None:
        warnings.append(adapters.warning(free_bytes, cache_bytes))
    return dataclasses.replace(budget, warnings=(*budget.warnings, *filter(None, warnings)))


def _enable_adapters(config: EngineConfig, model: LoadedModel) -> AdapterMemory:
    """Enable adapters in the model; return the memory that they may take. Raises StartupError if a device lacks it."""
    memory = adapter_memory(config, model.decoder.adapted_layers(), model.dtype, model.device)
    try:
        model.decoder.enable_adapters(config.max_loras, config.max_lora_rank)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise StartupError(
            f"{counted(config.max_loras, 'adapter slot')} of rank {config.max_lora_rank:,} need "
            f"{format_bytes(memory.slots_bytes)} on {model.device}, which has less left; lower --max-lora-rank to "
            "that of your adapters, or --max-loras"
        ) from error
    return memory


def _warm_runner(
    config: EngineConfig,
    model: LoadedModel,
    budget: KVBudget,
    drafter: DraftModel | None,
    report: ProgressReport,
    known: WarmUpTimes | None,
) -> tuple[TorchRunner, WarmUpTimes]:
    """Return a warmed-up runner, and the step times measured at warm-up, or the known ones on a CPU."""
    runner = TorchRunner(
        model,
        num_blocks=budget.num_blocks,
        block_size=config.block_size,
        num_states=budget.num_states,
        draft_probs=None if drafter is None else drafter.probabilities,
        graphs=graphs_of(model.device),
    )
    if is_host(model.device):
        retain_freed_memory()
    times = warm_up(
        runner,
        num_blocks=budget.num_blocks,
        most_tokens=min(_targets(model.device).trial_tokens, budget.max_model_len),
        report=lambda done, total: report("warm up", done, total, "steps"),
        decode_sizes=runner.decode_sizes(config.max_num_seqs),
        has_adapters=config.enable_lora,
        known=known if is_host(model.device) else None,
    )
    runner.end_warm_up()
    return runner, times


def _most_tokens(config: EngineConfig, device: torch.device) -> int:
    """Return the most tokens of a step."""
    return StepBudget(config.max_num_batched_tokens, targets=_targets(device)).max_tokens


def _targets(device: torch.device) -> StepTargets:
    return CPU_STEPS if is_host(device) else GPU_STEPS


def _step_budget(config: EngineConfig, runner: TorchRunner, times: WarmUpTimes, device: torch.device) -> StepBudget:
    return StepBudget(
        config.max_num_batched_tokens,
        times.prefill_token_s,
        runner.position_cost,
        runner.row_cost,
        decode_s=times.decode_s,
        batch_step_s=config.batch_step_ms / 1000,
        targets=_targets(device),
    )


def _grammar_compiler(config: EngineConfig, model: LoadedModel, on_compiled: Callable[[], None]) -> GrammarCompiler:
    source = TokenizerSource(model.tokenizer.tokenizer_json, model.vocab_size, model.tokenizer.eos_token_ids)
    return GrammarCompiler(
        source,
        timeout_s=config.grammar_compile_timeout,
        cache_bytes=config.grammar_cache_memory_bytes,
        on_compiled=on_compiled,
    )


def _adapter_service(
    config: EngineConfig,
    model: LoadedModel,
    on_prepared: Callable[[], None],
    on_adapter: Callable[[AdapterLoaded | AdapterRefused], None],
) -> AdapterService[Adapter, PreparedAdapter] | None:
    if not config.enable_lora:
        return None
    return AdapterService(
        ModelAdapters(model),
        max_rank=config.max_lora_rank,
        max_on_host=config.max_adapters_on_host,
        on_done=on_prepared,
        on_answer=on_adapter,
    )


def _speculator(spec: SpeculationSettings, drafter: DraftModel | None, *, takes_drafts: bool) -> Speculator:
    """Make the speculator. Prompt lookup is always included, so that a benchmark can switch it on."""
    if not takes_drafts:
        return Speculator.without_drafts()
    lookup = NgramProposer(spec.lookup_min, spec.lookup_max)
    return Speculator(spec.max_tokens, lookups=[lookup], drafter=drafter, sources=spec.sources)
