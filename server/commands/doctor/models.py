"""Findings about the memory of several models, and about options that a pooling model ignores."""

from collections.abc import Iterator, Sequence

from engine.command_io.findings import Finding, ok, problem
from engine.command_io.weighing import Weighed
from engine.config import EngineConfig
from engine.errors import StartupError
from engine.wording import gib
from server.commands.options.definitions import OPTIONS
from server.config.models import ModelEntry, ModelsConfig
from server.served.memory_plan import HOST, MemoryPlan, memory_need, plan_memory


def models_findings(config: ModelsConfig, alone: EngineConfig, weighed: Sequence[Weighed | None]) -> Iterator[Finding]:
    """Yield the findings about models. alone: options of the only model, if `config` lists none. weighed: memory needs
    of each model; None where unknown."""
    if not config.entries:
        (needs,) = weighed
        if needs is not None and not needs.has_kv_cache:
            yield from _generating_options(alone.generating_options())
        return
    for entry, needs in zip(config.entries, weighed, strict=True):
        if needs is not None and not needs.has_kv_cache:  # server-wide options do not apply to it
            own = [name for name in entry.engine.generating_options() if name in entry.own_options]
            yield from _generating_options(own, f"{entry.name}: ")
    yield from _together(config, weighed)


def _generating_options(names: Sequence[str], prefix: str = "") -> Iterator[Finding]:
    if names:
        flags = ", ".join(OPTIONS[name].flag for name in names)
        yield problem(
            "model",
            f"{prefix}it is a pooling model (embeddings or scores) and generates no text: leave {flags} out",
        )


def _together(config: ModelsConfig, weighed: Sequence[Weighed | None]) -> Iterator[Finding]:
    """Check whether the models with known needs fit into memory together, with the server's own memory plan."""
    known = [(entry, needs) for entry, needs in zip(config.entries, weighed, strict=True) if needs is not None]
    unknown = [entry.name for entry, needs in zip(config.entries, weighed, strict=True) if needs is None]
    if not known:
        return
    claims = [memory_need(entry, needs) for entry, needs in known]
    try:
        plan = plan_memory(claims, config.models_memory, loads_on_demand=config.loads_on_demand)
    except StartupError as error:
        yield problem("all models", str(error))
        return
    without = f"; {', '.join(unknown)} not counted" if unknown else ""
    yield ok("all models", _description(config, plan, [entry for entry, _ in known]) + without)


def _description(config: ModelsConfig, plan: MemoryPlan, entries: Sequence[ModelEntry]) -> str:
    each = ", ".join(
        f"{entry.name} {gib(grant.need_bytes)}{'' if grant.device == HOST else f' on {grant.device}'}"
        for entry, grant in zip(entries, plan.grants, strict=True)
    )
    limit = " and ".join(
        f"{gib(num_bytes)}{'' if name == HOST else f' on {name}'}" for name, num_bytes in plan.limits.items()
    )
    if config.loads_on_demand:
        return f"loaded on demand within {limit}: {each}"
    total = sum(grant.need_bytes for grant in plan.grants)
    return f"{gib(total)} together, of {limit} that they may use: {each}"
