"""print_answer: JSON for the command, or an exit code and a reason for its user."""

import pytest

from engine.errors import OptionError, StartupError
from engine.startup.answer import print_answer
from models.errors import CheckpointError, SettingError


def test_an_answer_is_printed_in_json(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert print_answer(lambda: {"a": 1}) == 0
    assert capfdbinary.readouterr() == (b'{"a":1}', b"")


@pytest.mark.parametrize(
    ("error", "code"),
    [(OptionError("no"), 2), (SettingError("no"), 2), (StartupError("no"), 1), (CheckpointError("no"), 1)],
)
def test_a_wrong_option_has_a_code_of_its_own(
    error: Exception, code: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def fail() -> None:
        raise error

    assert print_answer(fail) == code
    assert capfdbinary.readouterr() == (b"", b"headrace: no\n")
