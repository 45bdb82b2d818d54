"""Checks of models: their files, and the memory for their weights and KV caches."""

from collections.abc import Sequence

import torch

from engine.command_io.findings import DoctorResult, Finding, ModelToCheck, ok, problem, warning
from engine.command_io.weighing import USUAL_CONTEXT, Weighed
from engine.commands.doctor.computation import check_served, describe_computation, describe_problems
from engine.commands.weighed import open_as_served, weigh_opened
from engine.config import Device, EngineConfig
from engine.errors import HeadraceError
from engine.kv_tiers.tier import most_moving_bytes
from engine.runner.kv_budget import format_bytes, too_large_cache
from engine.speculation.settings import speculation_settings
from engine.startup.device import planned_device
from engine.startup.tier import check_states
from models.errors import MisfitError, ModelError
from models.sources.resolve import ModelFiles, find_local
from models.system.memory import free_memory_bytes, obtainable_memory_bytes


class _NotHere(Exception):
    """Error for a model whose files are not on this machine."""


def find_model_problems(models: Sequence[ModelToCheck]) -> DoctorResult:
    """Check each model; a single one must also fit into memory. Without models, report only the free memory."""
    config = models[0].config if models else EngineConfig()
    device = planned_device(config.device)
    free, most = free_memory_bytes(device), obtainable_memory_bytes(device)
    findings, weighed = [ok("memory", f"{format_bytes(free)} free on {device}")], []
    for model in models:
        is_alone = len(models) == 1
        needs, how, found = _check(model.config, device, is_alone=is_alone)
        if needs is not None:
            found = [
                _compare(needs, model.config, free, most, how)
                if is_alone
                else ok("model", f"{_text(needs, model.config)}; {how}")
            ]
        named = f"{model.name}: " if model.name else ""
        findings += [Finding(each.subject, each.severity, named + each.message) for each in found]
        weighed.append(needs)
    return DoctorResult(findings, weighed)


def _check(config: EngineConfig, device: torch.device, *, is_alone: bool) -> tuple[Weighed | None, str, list[Finding]]:
    """Return a model's memory needs and how it would be computed; None, "" and findings if it cannot be served."""
    subject = "model"
    try:
        files = _local(config.model)
        subject = "draft model"
        draft = speculation_settings(config).draft_model
        draft_files = None if draft is None else _local(draft)
        subject = "model"
        return *_served(files, draft_files, config, device, is_alone=is_alone), []
    except _NotHere as error:
        text = f"{error} is not on this machine; the first start downloads it, if there is a model of this name"
        return None, "", [warning(subject, text)]
    except MisfitError as error:
        found = [problem(subject, str(error))]
        if error.unlisted:
            found.append(problem("weights", f"besides, by kind: {describe_problems(error.unlisted)}"))
        return None, "", found
    except (ModelError, HeadraceError) as error:
        return None, "", [problem(subject, str(error))]


def _served(
    files: ModelFiles, draft_files: ModelFiles | None, config: EngineConfig, device: torch.device, *, is_alone: bool
) -> tuple[Weighed, str]:
    """Return a model's memory needs and how it would be computed. Raises a ModelError or an OptionError."""
    opened = open_as_served(files, config)
    check_served(opened, files, config, is_alone=is_alone)
    needs = weigh_opened(opened, files, draft_files, config)
    if config.kv_offload_dir is not None:
        check_states(opened.config.architecture(), has_states=needs.state_bytes > 0, has_kv=needs.token_kv_bytes > 0)
    return needs, describe_computation(opened, config, device)


def _local(model: str) -> ModelFiles:
    """Find a model's files on this machine. Raises _NotHere or a ModelError."""
    if (files := find_local(model)) is None:
        raise _NotHere(model)
    return files


def memory_finding(files: ModelFiles) -> Finding:
    """Return whether a model with default options fits into the free memory. Raises a ModelError if it cannot be
    served."""
    config = EngineConfig(model=files.origin)
    device = default_device()
    needs, how = _served(files, None, config, device, is_alone=True)
    return _compare(needs, config, free_memory_bytes(device), obtainable_memory_bytes(device), how)


def default_device() -> torch.device:
    """Return the device that models run on by default."""
    return planned_device(Device.AUTO)


def _compare(needs: Weighed, config: EngineConfig, free: int, most: int, how: str) -> Finding:
    """Compare a model's memory need with the memory. free: free bytes. most: free bytes if the system swaps out as much
    as it can. how: how it would be computed."""
    cache_bytes = config.kv_cache_memory_bytes or needs.usual_kv_bytes
    moving_bytes = 0 if config.kv_offload_dir is None else most_moving_bytes(cache_bytes)
    total = needs.weight_bytes + cache_bytes + moving_bytes
    moving = f"; {format_bytes(moving_bytes)} for blocks on their way to and from disk" if moving_bytes else ""
    text = f"{_text(needs, config)}{moving}; {how}"
    given, left = config.kv_cache_memory_bytes, max(0, free - needs.weight_bytes)
    if given is not None and given > left and needs.has_kv_cache and needs.weight_bytes <= most:
        return problem("model", f"{text}; {too_large_cache(given, left)}")
    if total > most:
        return problem(
            "model",
            f"{text}; {format_bytes(most)} of memory are available: choose a smaller model or fewer "
            "bits (--quantization int4), or free memory",
        )
    if total > free:
        return warning("model", f"{text}; {format_bytes(free)} of memory are free without swapping")
    return ok("model", text)


def _text(needs: Weighed, config: EngineConfig) -> str:
    weights = f"about {format_bytes(needs.weight_bytes)} of weights"
    if not needs.has_kv_cache:
        return f"{weights}, and {format_bytes(needs.least_kv_bytes)} for a batch of texts; it makes vectors or scores"
    state = f", {format_bytes(needs.state_bytes)} of recurrent states a request" if needs.state_bytes else ""
    if not needs.token_kv_bytes:
        return f"{weights}{state}, and no KV cache{_most(needs, config)}"
    usual = f"{format_bytes(needs.usual_kv_bytes - needs.state_bytes)} for {min(USUAL_CONTEXT, needs.longest):,}"
    return (
        f"{weights}{state}, and {format_bytes(needs.token_kv_bytes)} of KV cache a token, {usual}{_most(needs, config)}"
    )


def _most(needs: Weighed, config: EngineConfig) -> str:
    """Return what all requests of the stated context take together, with checkpoints; "" without --max-model-len."""
    if config.max_model_len is None:
        return ""
    what = "requests of" if config.max_num_seqs > 1 else "request of"
    return f"; at most {format_bytes(needs.most_kv_bytes)} for {config.max_num_seqs:,} {what} {needs.longest:,} tokens"
