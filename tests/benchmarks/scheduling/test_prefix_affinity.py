"""prefix_affinity: the prompts of tenants, and a front's command on free ports."""

from pathlib import Path

import pytest

from benchmarks.scheduling.prefix_affinity import front_command, tenant_prefix
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast


def test_prefixes_of_two_tenants_differ_from_their_beginning() -> None:
    first, second = tenant_prefix(1, 20), tenant_prefix(2, 20)
    assert first.split()[:2] != second.split()[:2]
    assert first == tenant_prefix(1, 20)


def test_a_fronts_file_gets_other_ports_in_a_copy(tmp_path: Path) -> None:
    ports = {8000: 1, 8001: 2, 8080: 3}
    command = front_command(f"sh {ROOT}/deploy/fronts/smg.sh --port 8080 --policy x", ports, tmp_path)
    assert command == f"sh {tmp_path}/smg.sh --port 3 --policy x"
    text = (tmp_path / "smg.sh").read_text()
    assert "--port 3 " in text
    assert "http://127.0.0.1:1 http://127.0.0.1:2 " in text
