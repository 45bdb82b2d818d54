"""What `headrace doctor` asks the process that loads torch, and what that process answers. No torch here."""

import msgspec

from engine.command_io.findings import Finding
from engine.command_io.weighing import Weighed
from engine.config import EngineConfig


class ModelToCheck(msgspec.Struct, frozen=True):
    """name: as the server would call it, '' of the only one."""

    name: str
    config: EngineConfig


class DoctorResult(msgspec.Struct, frozen=True):
    """weighed: of each model, in order; None of one that is not on this machine, or cannot be served."""

    findings: list[Finding]
    weighed: list[Weighed | None]
