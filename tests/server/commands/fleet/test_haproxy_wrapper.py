"""The program in front of HAProxy changes the addresses of two pages in the configuration, lets it keep whole requests,
and refuses a configuration in which it cannot."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

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


@dataclass
class Wrapper:
    """The wrapper of a program that prints its arguments, and a configuration for it."""

    command: str
    metrics: str
    stats: str
    config: Path

    def write(self, text: str) -> str:
        """Write a configuration with the ports in their places; return it."""
        written = text.format(metrics=self.metrics, stats=self.stats)
        self.config.write_text(written)
        return written

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self.command, *arguments], capture_output=True, text=True, check=False)

    def run_configured(self) -> "subprocess.CompletedProcess[str]":
        return self.run("-db", "-f", str(self.config), "-sf", "12")


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    program = tmp_path / "real"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o700)
    folder = tmp_path / "front"
    folder.mkdir()
    variables = own_front_variables(folder, str(program), {})
    metrics, stats = (variables[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("METRICS", "STATS"))
    return Wrapper(variables["RAY_SERVE_HAPROXY_BINARY_PATH"], metrics, stats, tmp_path / "haproxy.cfg")


def test_metrics_and_statistics_move_to_loopback_and_requests_are_kept_whole(wrapper: Wrapper) -> None:
    expected = wrapper.write(CONFIG)
    assert wrapper.run_configured().returncode == 0
    done = wrapper.run_configured()  # Ray may give it the same file again
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-db", "-f", str(wrapper.config), "-sf", "12"]
    expected = expected.replace("defaults\n", "defaults\n    option http-buffer-request\n")
    expected = expected.replace(f" :{wrapper.metrics}", f" 127.0.0.1:{wrapper.metrics}")
    expected = expected.replace(f"*:{wrapper.stats}", f"127.0.0.1:{wrapper.stats}")
    assert wrapper.config.read_text() == expected


@pytest.mark.parametrize(
    ("usual", "other", "reason"),
    [
        ("bind :{metrics}", "bind [::]:{metrics}", "does not bind port"),
        ("bind :{metrics}", "bind 0.0.0.0:{metrics} name metrics", "does not bind port"),
        ("bind :{metrics}", "bind :{metrics}\n    bind [::]:{metrics} v6only", "does not bind port"),
        ("bind *:{stats}", "bind *:8404", "does not bind port"),
        ("defaults", "defaults serve", "has no section of defaults"),
    ],
)
def test_a_configuration_that_is_written_in_another_way_is_refused(
    wrapper: Wrapper, usual: str, other: str, reason: str
) -> None:
    assert usual in CONFIG
    wrapper.write(CONFIG.replace(usual, other))
    done = wrapper.run_configured()
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
    assert "pip install 'ray[serve]==" in done.stderr
    assert len(done.stderr.splitlines()) == 1  # Ray's error ends with it, and the command shows the last line


def test_an_option_in_a_comment_alone_is_not_there(wrapper: Wrapper) -> None:
    wrapper.write(CONFIG.replace("mode http", "# option http-buffer-request is not set"))
    assert wrapper.run_configured().returncode == 0
    assert "\n    option http-buffer-request\n" in wrapper.config.read_text()


def test_a_configuration_that_is_given_in_another_way_is_refused(wrapper: Wrapper) -> None:
    wrapper.write(CONFIG)
    done = wrapper.run("-db", "--", str(wrapper.config))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not given by -f" in done.stderr
