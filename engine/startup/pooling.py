"""Start-up of a pooling engine: checks of options, pooling scheme, warm-up and description."""

import dataclasses
import time
from collections.abc import Callable

from engine.child_processes.fault_plan import FaultPlan
from engine.config import EngineConfig, Pooling, SchedulingPolicy, Task
from engine.errors import ModelUnusable, OptionError
from engine.faults.wrappers import FaultyPooler
from engine.pooling.engine import PoolingEngine
from engine.pooling.pooler import Pooler
from engine.pooling.queue import PoolingQueue
from engine.pooling.step_size import PoolingStepSize
from engine.protocol import EngineInfo, PoolingInfo, PoolingParams, PoolingRequest, PoolingTask, StepStats
from engine.runner.kv_budget import check_context, format_bytes
from engine.startup.description import dummy_warning, tokenizer_info
from engine.startup.task import pooling_tasks, pools
from models.architecture.pooling import TokenPooling
from models.decoder import Decoder
from models.forward.packed import PackedForward
from models.loaded_model import LoadedModel
from models.pooling.scheme import PoolingScheme
from models.pooling.traits import PoolingTraits
from models.progress import ProgressReport
from models.system.cuda import device_uuid

_POOLINGS = {Pooling.MEAN: TokenPooling.MEAN, Pooling.CLS: TokenPooling.CLS, Pooling.LAST: TokenPooling.LAST}
_WARM_UP_TEXTS = (16, 64, 256)  # tokens; the time of the last is the first estimate of the speed


def check_served_options(config: EngineConfig, traits: PoolingTraits | None, max_position: int) -> bool:
    """Return whether the engine pools texts, as `check_pooling_options` does. max_position: the longest context.

    Raises also OptionError for a longer --max-model-len.
    """
    is_pooling = check_pooling_options(config, traits)
    check_context(config, max_position)
    return is_pooling


def check_pooling_options(config: EngineConfig, traits: PoolingTraits | None) -> bool:
    """Return whether the engine pools texts (embeddings, scores). traits: None if transformers' code runs the model.

    Raises OptionError for options that do not fit the model, ModelUnusable if the model needs unsupported pooling.
    """
    if traits is None:
        if config.task is Task.EMBED:
            raise OptionError(
                "--task is embed, but transformers' code computes this model, and headrace cannot make embeddings of "
                "it; choose an architecture of docs/models.md"
            )
        return False
    if config.task is Task.GENERATE and not traits.can_generate:
        raise OptionError("--task is generate, but this model has no output layer; leave it out")
    is_pooling = pools(config.task, traits.pools_by_default)
    if not is_pooling and config.pooling is not Pooling.AUTO:
        raise OptionError(
            f"--pooling is {config.pooling.value}, but this model generates text; add --task embed, or leave it out"
        )
    if is_pooling and traits.refusal is not None:
        raise ModelUnusable(traits.refusal)
    return is_pooling


def build_pooling_engine(
    config: EngineConfig,
    model: LoadedModel,
    report: ProgressReport,
    on_started: Callable[[list[str], StepStats], None],
    faults: FaultPlan | None = None,
) -> tuple[PoolingEngine, EngineInfo]:
    """Build the engine of a model that pools texts. Raises OptionError for options of generating models, and
    ModelUnusable for a model that cannot pool texts."""
    traits, decoder = model.pooling, model.decoder
    assert traits is not None
    assert isinstance(decoder, Decoder)
    if given := config.generating_options():
        raise OptionError(
            f"--{given[0].replace('_', '-')} is for models that generate text, and this one makes vectors or scores of "
            "it; leave it out"
        )
    scheme = _scheme(config, traits)
    info = _pooling_info(config, model, traits, scheme)
    decoder.serve_context(info.max_input_tokens)
    forward = PackedForward(decoder, model.device)
    pooler = Pooler(forward, decoder, scheme, traits.activation)
    step_size = PoolingStepSize(config.max_num_batched_tokens)
    _warm_up(pooler, info, step_size, report)
    engine = PoolingEngine(
        pooler if faults is None else FaultyPooler(pooler, faults),
        info,
        PoolingQueue(honors_priority=config.scheduling_policy is SchedulingPolicy.PRIORITY),
        step_size,
        vocab_size=model.vocab_size,
        max_num_seqs=config.max_num_seqs,
        on_started=on_started,
    )
    return engine, _engine_info(config, model, info, step_size)


def _scheme(config: EngineConfig, traits: PoolingTraits) -> PoolingScheme | None:
    """Return the scheme of embeddings; None for a model with a score head. If neither options nor model state a scheme:
    mean pooling for encoders, the last token's state for decoders, normalized to length 1."""
    if traits.score_head is not None and config.task is not Task.EMBED:
        if config.pooling is not Pooling.AUTO:
            raise OptionError(
                f"--pooling is {config.pooling.value}, but this model has a head that gives scores; leave it out"
            )
        return None
    scheme = traits.scheme
    if config.pooling is not Pooling.AUTO:
        chosen = (_POOLINGS[config.pooling],)
        if scheme is None:
            return PoolingScheme(chosen, normalizes=True)
        if scheme.projections and len(scheme.poolings) > 1:
            raise OptionError(
                f"--pooling is {config.pooling.value}, but this model's dense layer takes several kinds of pooling"
            )
        return dataclasses.replace(scheme, poolings=chosen)
    if scheme is not None:
        return scheme
    return PoolingScheme((TokenPooling.MEAN if traits.is_encoder else TokenPooling.LAST,), normalizes=True)


def _pooling_info(
    config: EngineConfig, model: LoadedModel, traits: PoolingTraits, scheme: PoolingScheme | None
) -> PoolingInfo:
    limits = [model.max_position]
    made_for = None if scheme is None else scheme.max_tokens
    if config.max_model_len is not None:
        limits.append(config.max_model_len)
    elif made_for is not None:
        limits.append(made_for)
    if scheme is None:
        assert traits.score_head is not None
        num_labels = traits.score_head.num_labels
        return PoolingInfo(
            tasks=pooling_tasks(config.task, traits.score_head),
            dimensions=num_labels,
            max_input_tokens=min(limits),
            labels=list(traits.labels),
            activation=traits.activation.value,
            pooling=traits.score_head.pooling.name.lower(),
        )
    return PoolingInfo(
        tasks=pooling_tasks(config.task, traits.score_head),
        dimensions=scheme.dimensions(traits.hidden_size),
        matryoshka=None if traits.matryoshka is None else list(traits.matryoshka),
        max_input_tokens=min(limits),
        normalize=scheme.normalizes,
        prompts=dict(scheme.prompts),
        default_prompt=scheme.default_prompt,
        pooling=scheme.describe(),
    )


def _warm_up(pooler: Pooler, info: PoolingInfo, step_size: PoolingStepSize, report: ProgressReport) -> None:
    lengths = [min(length, info.max_input_tokens) for length in _WARM_UP_TEXTS]
    params = PoolingParams(task=info.tasks[0])
    for done, length in enumerate(lengths):
        report("warm up", done, len(lengths), "steps")
        request = PoolingRequest(id="warm-up", prompt_ids=[0] * length, params=params, arrival_s=0.0)
        start_s = time.perf_counter()
        pooler.compute([request])
        if length == lengths[-1]:
            step_size.observe(length, time.perf_counter() - start_s)
    report("warm up", len(lengths), len(lengths), "steps")


def _engine_info(config: EngineConfig, model: LoadedModel, info: PoolingInfo, step_size: PoolingStepSize) -> EngineInfo:
    dtype = str(model.dtype).removeprefix("torch.")
    output = f"{info.dimensions:,} numbers a text" if PoolingTask.EMBED in info.tasks else f"{info.dimensions:,} scores"
    rate = f" ({1 / step_size.seconds_per_token:,.0f} tokens/s at warm-up)" if step_size.seconds_per_token else ""
    return EngineInfo(
        architecture=model.architecture,
        device=str(model.device),
        gpu_uuid=device_uuid(model.device),
        dtype=dtype,
        vocab_size=model.vocab_size,
        max_model_len=info.max_input_tokens,
        block_size=config.block_size,
        num_blocks=0,
        kv_bytes=0,
        kv_windows=[],
        weight_bytes=model.weight_bytes,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=step_size.most,
        prefill_seconds_per_token=step_size.seconds_per_token,
        tokenizer=tokenizer_info(model.tokenizer),
        generation_defaults={},
        notes=[
            f"Model: {model.architecture}, {dtype} on {model.device}",
            f"Pooling: {info.pooling}, {output}{', of length 1' if info.normalize else ''}; texts of up to "
            f"{info.max_input_tokens:,} tokens{rate}",
            f"Memory: {format_bytes(model.weight_bytes)} of weights, and no KV cache",
            *model.notes,
        ],
        warnings=dummy_warning(config),
        load_format=config.load_format.value,
        weight_formats=model.weight_formats,
        pooling=info,
    )
