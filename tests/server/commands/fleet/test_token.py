"""Ray's token: nobody but the user who starts a fleet can read it, and clusters with an address get it."""

import stat
from pathlib import Path

import pytest

from engine.errors import StartupError
from server.commands.fleet.cluster import keep_token_private, send_token

pytestmark = pytest.mark.fast


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray looks for the token, in a home without one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_a_missing_token_is_made_for_its_owner_alone(token: Path) -> None:
    keep_token_private({})
    assert mode(token) == "0o600"
    assert len(bytes.fromhex(token.read_text())) == 32


def test_a_token_that_others_can_read_is_taken_from_them_and_stays(
    token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token.parent.mkdir()
    token.write_text("kept")
    token.chmod(0o644)
    keep_token_private({"RAY_AUTH_MODE": "token"})
    assert (mode(token), token.read_text()) == ("0o600", "kept")
    assert "its mode was 644, now 600" in caplog.text
    caplog.clear()
    keep_token_private({})
    assert not caplog.text


@pytest.mark.parametrize(
    "environ",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "secret"}, {"RAY_AUTH_TOKEN_PATH": "/run/secrets/ray"}],
)
def test_a_token_from_elsewhere_needs_no_file(token: Path, environ: dict[str, str]) -> None:
    keep_token_private(environ)
    assert not token.parent.exists()


def test_a_home_without_place_for_it_is_an_error_with_the_remedy(token: Path) -> None:
    token.parent.write_text("a file where the folder belongs")
    with pytest.raises(StartupError, match=r"auth_token, the token of .*; give another file by RAY_AUTH_TOKEN_PATH"):
        keep_token_private({})


@pytest.mark.usefixtures("token")
def test_a_token_is_sent_wherever_there_is_one() -> None:
    environ: dict[str, str] = {}
    send_token(environ)
    assert environ == {}
    keep_token_private(environ)
    send_token(environ)
    assert environ == {"RAY_AUTH_MODE": "token"}
    from_path = {"RAY_AUTH_TOKEN_PATH": "/run/secrets/ray"}
    send_token(from_path)
    assert from_path["RAY_AUTH_MODE"] == "token"


@pytest.mark.usefixtures("token")
def test_an_operator_may_send_none() -> None:
    keep_token_private({})
    environ = {"RAY_AUTH_MODE": "disabled"}
    send_token(environ)
    assert environ == {"RAY_AUTH_MODE": "disabled"}
