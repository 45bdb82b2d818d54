"""The request and the result of the process of `headrace doctor` that loads torch. No torch here."""

import msgspec

from engine.command_io.findings import Finding
from engine.command_io.weighing import Weighed
from engine.config import EngineConfig


class ModelToCheck(msgspec.Struct, frozen=True):
    """A model to check. name: as the server would call it; '' if there is one model."""

    name: str
    config: EngineConfig


class DoctorResult(msgspec.Struct, frozen=True):
    """The findings, and the memory need of each model in order: None if the model is not on this machine, or cannot be
    served."""

    findings: list[Finding]
    weighed: list[Weighed | None]
