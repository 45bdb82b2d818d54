"""The front's variables, and the program that keeps HAProxy's own pages on loopback."""

import os
from pathlib import Path

import pytest

from server.commands.fleet.front import (
    front_variables,
    own_front_variables,
    set_unless_given,
    wrapped_front_variables,
)

pytestmark = pytest.mark.fast


def test_variables_retry_only_what_no_replica_has_answered() -> None:
    variables = front_variables(30000)
    assert variables["RAY_SERVE_HAPROXY_RETRY_ON"].split() == ["conn-failure", "empty-response"]
    assert int(variables["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]) > 40_000


def test_usage_statistics_are_off() -> None:
    assert front_variables(30000)["RAY_USAGE_STATS_ENABLED"] == "0"


def test_files_and_ports_are_the_fleets_own(tmp_path: Path) -> None:
    variables = own_front_variables(tmp_path, "/usr/sbin/haproxy", {})
    files = [value for name, value in variables.items() if not name.endswith("_PORT")]
    assert all(value.startswith(str(tmp_path)) for value in files)
    assert variables["RAY_SERVE_HAPROXY_METRICS_PORT"] != variables["RAY_SERVE_HAPROXY_STATS_PORT"]


def test_a_port_that_an_operator_gives_is_the_one_that_moves_to_loopback(tmp_path: Path) -> None:
    variables = own_front_variables(tmp_path, "/usr/sbin/haproxy", {"RAY_SERVE_HAPROXY_METRICS_PORT": "9555"})
    assert variables["RAY_SERVE_HAPROXY_METRICS_PORT"] == "9555"
    program = Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert f"(9555|{variables['RAY_SERVE_HAPROXY_STATS_PORT']})" in program.read_text()


def test_machines_of_a_cluster_have_rays_ports_and_one_program(tmp_path: Path) -> None:
    folder = tmp_path / ".ray" / "headrace"
    variables = [wrapped_front_variables(folder, "/usr/sbin/haproxy", {}) for _ in range(2)]
    assert variables[0] == variables[1]
    (program,) = folder.iterdir()
    assert variables[0]["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(program)
    assert "(9101|8404)" in program.read_text()
    assert os.access(program, os.X_OK)


def test_an_operators_own_variables_stay() -> None:
    assert set_unless_given({"A": "1"}, {"A": "2", "B": "3"}) == {"B": "3"}
