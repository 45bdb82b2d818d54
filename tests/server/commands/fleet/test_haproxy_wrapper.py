"""The program in front of HAProxy changes the addresses of two pages in the configuration, and lets it keep whole
requests."""

import subprocess
from pathlib import Path

from server.commands.fleet.front import own_front_variables

CONFIG = """\
defaults
    mode http
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind *:8000
listen stats
  bind *:{stats}
"""


def test_metrics_and_statistics_move_to_loopback_and_requests_are_kept_whole(tmp_path: Path) -> None:
    program = tmp_path / "real"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o700)
    folder = tmp_path / "front"
    folder.mkdir()
    variables = own_front_variables(folder, str(program))
    metrics, stats = (variables[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("METRICS", "STATS"))
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(metrics=metrics, stats=stats))
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "12"]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # Ray may give it the same file again
    assert done.stdout.split() == command[1:]
    expected = CONFIG.format(metrics=metrics, stats=stats)
    expected = expected.replace("defaults\n", "defaults\n    option http-buffer-request\n")
    expected = expected.replace(f":{metrics}", f"127.0.0.1:{metrics}").replace(f"*:{stats}", f"127.0.0.1:{stats}")
    assert config.read_text() == expected
