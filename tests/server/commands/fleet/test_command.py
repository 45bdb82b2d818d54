"""`headrace fleet` without Ray: actions, options that are refused before anything starts, and the missing extra."""

import sys
from pathlib import Path

import pytest

from engine.errors import OptionError, StartupError
from server.cli import main
from server.commands.fleet import command
from server.commands.fleet.command import run

pytestmark = pytest.mark.fast


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.serve", None)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("arguments", [["--threads", "1"], ["status"], ["stop"]])
def test_a_missing_extra_is_one_line_with_the_command(arguments: list[str]) -> None:
    with pytest.raises(StartupError) as caught:
        run(arguments)
    assert str(caught.value).endswith("install it with: pip install 'headrace[ray]'")
    assert "\n" not in str(caught.value)


def test_a_refused_option_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "--max-replicas", "2", "--data-dir", "/data", "--threads", "1"]) == 2
    error = capsys.readouterr().err
    assert "--data-dir cannot be used with " in error
    assert "headrace fleet: stored responses" in error  # after the folder of the program that was started


@pytest.mark.usefixtures("no_ray")
def test_variables_are_printed_for_a_shell_without_ray(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(command, "haproxy_binary", lambda: "/usr/sbin/haproxy")
    assert run(["variables", "--replica-port", "31000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "export RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT=31000" in lines
    assert "export RAY_SERVE_HAPROXY_RETRY_ON='conn-failure empty-response'" in lines
    assert "export RAY_AUTH_MODE=token" in lines
    assert any(
        line.startswith(f"export RAY_SERVE_HAPROXY_BINARY_PATH={tmp_path}/.ray/headrace/haproxy-") for line in lines
    )


def test_an_unknown_option_of_an_action_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown option --replicas"):
        run(["status", "--replicas", "2"])
