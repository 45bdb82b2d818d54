"""Lines of Ray Serve that a user cannot act on are not shown, and its refusals are read."""

import io
import logging
import sys

import pytest

from server.commands.fleet.ray_output import fields_ignored, quiet_serve, without_noise

pytestmark = pytest.mark.fast


HOST = "host='127.0.0.1' won't accept connections from HAProxy on other nodes; set it"
SLOW = "2 replicas that have taken more than 30s to initialize."


@pytest.mark.parametrize(("has_other_machines", "shown"), [(False, "a\n\nb\n"), (True, f"a\n{HOST}\n\nb\n")])
def test_only_lines_that_a_user_can_act_on_are_shown(
    has_other_machines: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with without_noise(has_other_machines=has_other_machines):
        for line in ("a", HOST, "", SLOW, "b"):
            print(line, file=sys.stderr)  # noqa: T201 - as Ray does
    assert stream.getvalue() == shown


def test_a_replica_that_did_not_answer_a_command_is_not_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("ray.serve")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setenv("RAY_COLOR_PREFIX", "0")  # which it sets
    caplog.set_level(logging.WARNING, "ray.serve")
    quiet_serve()
    logger.warning("Failed to get queue length from Replica(id='ruf16p1o') within 0.1s. If this happens repeatedly")
    logger.warning("Request failed because Replica(id='ruf16p1o') is temporarily unavailable.")
    logger.warning("a replica is slow")
    assert caplog.messages == ["a replica is slow"]


def test_ignored_http_options_are_taken_from_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ray.serve")
    line = "The new client HTTP config differs from the existing one in the following fields: ['host', 'port']. It is"
    with fields_ignored() as ignored:
        logger.warning(line)
        logger.warning("a replica is slow")
    assert ignored == ["host", "port"]
    assert caplog.messages == ["a replica is slow"]
