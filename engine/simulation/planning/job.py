"""Jobs of processes: PlanJob reads the sizes of a model for `headrace plan`, and ServedPlanJob plans a served one."""

from dataclasses import dataclass

from engine.config import EngineConfig
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.plan import Variant
from engine.simulation.planning.search import LoadKind, Requests
from engine.simulation.planning.slo import SLO


@dataclass(frozen=True, slots=True)
class PlanJob:
    """hardware: a saved model with measured steps, the name of a card, or None for this machine. variants: other
    options to compare, by name."""

    engine: EngineConfig
    hardware: SimulatedModel | str | None
    variants: dict[str, EngineConfig]


@dataclass(frozen=True, slots=True)
class PlannedModels:
    """Sizes of the model on the hardware, and with each variant's options."""

    model: SimulatedModel
    variants: list[Variant]


@dataclass(frozen=True, slots=True)
class ServedPlanJob:
    """A plan of a model that is served: its times, the engine's options, and what `make_plan` takes."""

    model: SimulatedModel
    engine: EngineConfig
    requests: Requests
    kind: LoadKind
    amount: float
    slo: SLO
    has_changes: bool
