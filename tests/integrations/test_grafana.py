"""Grafana's own models of a dashboard read ours, and know every field of it."""

import json
import subprocess

import pytest

from tests.helpers.dashboard import DASHBOARD
from tests.integrations.programs import python_program

pytestmark = pytest.mark.integrations

_READ_AND_WRITE = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
print(JSONEncoder().encode(Dashboard.from_json(json.load(sys.stdin))))
"""


def _lost(given: object, read: object, path: str = "") -> list[str]:
    """Where `read` lacks what was given, or has something else."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [each for name, value in given.items() for each in _lost(value, read.get(name), f"{path}/{name}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        pairs = enumerate(zip(given, read, strict=True))
        return [each for number, pair in pairs for each in _lost(*pair, f"{path}/{number}")]
    return [] if given == read else [path]


def test_grafana_reads_all_of_the_dashboard() -> None:
    python = python_program("grafana-foundation-sdk", "python")
    document = DASHBOARD.read_text()
    command = [str(python), "-c", _READ_AND_WRITE]
    done = subprocess.run(command, input=document, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _lost(json.loads(document), json.loads(done.stdout)) == []
