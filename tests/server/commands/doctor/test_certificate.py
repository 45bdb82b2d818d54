"""Findings of `headrace doctor` about a certificate."""

import time
from pathlib import Path

import pytest

from engine.command_io.findings import Severity
from server.commands.doctor.options import certificate_finding
from server.config.network import NetworkConfig
from tests.helpers.certificates import Authority


@pytest.mark.parametrize(
    ("days", "severity", "text"),
    [(-38, Severity.OK, "is valid until"), (0, Severity.WARNING, "renew it"), (3, Severity.PROBLEM, "expired on")],
)
def test_its_end_is_told(tmp_path: Path, days: int, severity: Severity, text: str) -> None:
    """The certificate is valid for two days; the time is that many days from now."""
    issued = Authority(tmp_path / "ca").issue("server")
    network = NetworkConfig(ssl_certfile=issued.cert, ssl_keyfile=issued.key)
    found = certificate_finding(network, time.time() + days * 86400)
    assert found.severity is severity
    assert text in found.message


def test_a_key_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    issued = Authority(tmp_path / "ca").issue("server")
    found = certificate_finding(NetworkConfig(ssl_certfile=issued.cert), time.time())
    assert found.severity is Severity.PROBLEM
    assert "no private key in PEM form" in found.message
