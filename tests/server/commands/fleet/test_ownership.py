"""Commands that wait beside a running fleet: the newest one may stop it, and the older ones end without that."""

import logging
import threading

import pytest

from engine.errors import OptionError
from server.commands.fleet import command
from server.commands.fleet.cluster import FleetState, Launch, check_front, check_reachable

pytestmark = pytest.mark.fast

MINE, NEWER = (Launch(name, "127.0.0.1", 8000, 5) for name in ("mine", "newer"))
RUNNING, UPDATING, FAILED = (FleetState(name, {}, "") for name in ("RUNNING", "DEPLOYING", "DEPLOY_FAILED"))

Look = tuple[FleetState | None, Launch | None, bool]  # the fleet, the launch of its replicas, whether a signal came


def watch(looks: list[Look], monkeypatch: pytest.MonkeyPatch, *, is_own: bool = False) -> bool:
    """Return whether the command must stop the fleet after these looks, each of which it must take."""

    class Stopped(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
            self.look = left.pop(0)
            return self.look[2]

    left, stopped = list(looks), Stopped()
    monkeypatch.setattr(command, "fleet_state", lambda: stopped.look[0])
    monkeypatch.setattr(command, "running_launch", lambda: stopped.look[1])
    must_stop = command._watch(MINE, stopped, is_own=is_own)
    assert left == []
    return must_stop


@pytest.mark.parametrize("replicas", [MINE, None], ids=["answer", "do not answer"])
def test_a_signal_stops_the_fleet_that_no_other_command_updated(
    replicas: Launch | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch([(RUNNING, replicas, False), (RUNNING, replicas, True)], monkeypatch)


def test_an_update_ends_the_older_command_when_it_is_complete(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert not watch([(UPDATING, MINE, False), (UPDATING, NEWER, False), (RUNNING, NEWER, False)], monkeypatch)
    assert caplog.messages == ["another command has updated the fleet, which keeps running; this command ends"]


def test_a_signal_during_an_update_leaves_the_fleet_running(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not watch([(UPDATING, MINE, True)], monkeypatch)


def test_an_update_that_failed_changes_no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch([(UPDATING, MINE, False), (FAILED, MINE, False), (FAILED, MINE, True)], monkeypatch)


def test_a_command_with_its_own_cluster_stays_after_an_update(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    looks = [(UPDATING, MINE, False), (RUNNING, NEWER, False), (RUNNING, NEWER, True)]
    assert watch(looks, monkeypatch, is_own=True)
    assert len(caplog.messages) == 1
    assert "keep it running" in caplog.messages[0]


def test_a_fleet_that_was_stopped_elsewhere_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not watch([(RUNNING, MINE, False), (None, None, False)], monkeypatch)


def test_a_front_that_cannot_reach_other_machines_is_refused() -> None:
    machines = ["10.0.0.5", "10.0.0.6"]
    check_reachable("127.0.0.1", machines[:1])
    check_reachable("0.0.0.0", machines)
    for host in ("127.0.0.1", "10.0.0.5"):
        with pytest.raises(OptionError, match=f"--host is {host}, .* has 2 machines .*; give --host 0.0.0.0"):
            check_reachable(host, machines)


def test_another_front_is_refused_with_the_running_one() -> None:
    check_front(NEWER, MINE)
    with pytest.raises(
        OptionError, match=r"--port is 8001, and the fleet .* has --port 8000; give the same .*fleet stop"
    ):
        check_front(Launch("newer", "127.0.0.1", 8001, 5), MINE)
    with pytest.raises(OptionError, match=r"--timeout-keep-alive is 9, .* --timeout-keep-alive 5"):
        check_front(Launch("newer", "127.0.0.1", 8000, 9), MINE)
