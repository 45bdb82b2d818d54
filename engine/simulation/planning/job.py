"""PlanJob: what `headrace plan` asks of the process that reads models' sizes, and its answer."""

from dataclasses import dataclass

from engine.config import EngineConfig
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.plan import Variant


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
