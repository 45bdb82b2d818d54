"""`python -m engine.commands.doctor JOB`: checks the machine and models. JOB is a list of ModelToCheck in JSON; the
output is a DoctorResult."""

import sys
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent
from engine.command_io.findings import DoctorResult, ModelToCheck
from engine.commands.doctor.machine import event_findings, machine_findings
from engine.commands.doctor.model import find_model_problems
from engine.config import EngineConfig


def main(argv: Sequence[str]) -> int:
    end_with_parent()
    models = msgspec.json.decode(argv[0], type=list[ModelToCheck])
    checked = find_model_problems(models)
    configs = [model.config for model in models]
    findings = [
        *machine_findings(configs[0] if configs else EngineConfig()),
        *event_findings(configs),
        *checked.findings,
    ]
    sys.stdout.buffer.write(msgspec.json.encode(DoctorResult(findings, checked.weighed)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
