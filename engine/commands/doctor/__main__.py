"""`python -m engine.commands.doctor JOB`: prints findings as JSON. JOB is an EngineConfig in JSON."""

import sys
from collections.abc import Sequence

import msgspec

from engine.client.lifetime import end_with_parent
from engine.commands.doctor.machine import machine_findings
from engine.commands.doctor.model import model_findings
from engine.config import EngineConfig


def main(argv: Sequence[str]) -> int:
    end_with_parent()
    config = msgspec.json.decode(argv[0], type=EngineConfig)
    findings = [*machine_findings(config), *model_findings(config)]
    sys.stdout.buffer.write(msgspec.json.encode(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
