"""`headrace keys`: new keys, other ones for old names, and a file's check."""

import io
from pathlib import Path

import pytest

from engine.errors import OptionError
from server.commands import keys
from server.keys.key import key_hash
from server.keys.key_file import parse_keys, read_keys
from tests.helpers.keys import entry, write_keys

pytestmark = pytest.mark.fast


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """Return the line on standard output, without its newline, and the text on standard error."""
    assert keys.run([str(each) for each in arguments]) == 0
    out, err = capsys.readouterr()
    return out.removesuffix("\n"), err


def test_a_new_key_is_printed_once_and_its_hash_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    key, told = _run(capsys, "new", "ann", "--file", path)
    limits = ["--requests-per-minute", 60, "--weight", 2.5, "--models", "a", "b", "--expires", "2031-01-01T00:00:00Z"]
    other, _ = _run(
        capsys, "new", "ben", "--file", path, *limits, "--admin", "--budget-tokens", 9, "--budget-period", "day"
    )
    ann, ben = read_keys(path)
    assert (ann.name, ann.hash, ann.admin) == ("ann", key_hash(key), False)
    assert (ben.hash, ben.admin, ben.requests_per_minute, ben.weight) == (key_hash(other), True, 60, 2.5)
    assert (ben.models, ben.budget_tokens, ben.budget_period.value) == (("a", "b"), 9, "day")
    assert "a running server with this file accepts the key within a second" in told
    assert key not in path.read_text()


def test_without_a_file_the_entry_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    key, told = _run(capsys, "new", "prometheus", "--metrics", "--no-models")
    entry = told.partition("\n\n")[2].partition("\n\n")[0]
    (parsed,) = parse_keys("keys:\n" + entry)
    assert (parsed.name, parsed.hash, parsed.metrics, parsed.models) == ("prometheus", key_hash(key), True, ())


def test_another_key_for_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    first, _ = _run(capsys, "new", "ann", "--file", path, "--weight", 2)
    second, _ = _run(capsys, "rotate", "ann", "--file", path)
    (ann,) = read_keys(path)
    assert first != second
    assert (ann.hash, ann.weight) == (key_hash(second), 2)


def test_a_file_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    key, _ = _run(capsys, "new", "ann", "--file", path, "--max-concurrency", 3)
    listed, told = _run(capsys, "check", path)
    assert listed == "ann max_concurrency=3"
    assert told == ""
    path.chmod(0o644)
    assert "chmod 600" in _run(capsys, "check", path)[1]
    assert key_hash(key) not in listed


def test_expired_keys_are_listed_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"ann": "2020-01-01T00:00:00Z", "ben": "2999-01-01T00:00:00+02:00"}
    path = tmp_path / "keys.json"
    write_keys(path, *(entry(name, expires=time) for name, time in times.items()))
    ann, ben = _run(capsys, "check", path)[0].splitlines()
    assert ann == "ann expires=2020-01-01T00:00:00Z (expired)"
    assert ben == "ben expires=2999-01-01T00:00:00+02:00"


def test_the_hash_of_a_key_from_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a key that nobody guesses\n"))
    assert _run(capsys, "hash")[0] == key_hash("a key that nobody guesses")
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    with pytest.raises(OptionError, match="has 5 characters"):
        keys.run(["hash"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no action given"),
        (["new"], "required: NAME"),
        (["new", "a b"], "NAME is 'a b'; it must be"),
        (["new", "a", "--max-concurrency", "0"], "max_concurrency: expected int >= 1"),
        (["new", "a", "--weight", "nan"], "weight"),
        (["new", "a", "--expires", "tomorrow"], "expires: Invalid RFC3339"),
        (["new", "a", "--expires", "2020-01-01T00:00:00Z"], "--expires is 2020-01-01T00:00:00Z, which is in the past"),
        (["new", "a", "--wait", "1"], "--wait"),
        (["rotate", "a", "--file", "/nowhere/keys"], "cannot read /nowhere/keys"),
        (["check", "/nowhere/keys"], "cannot read /nowhere/keys"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        keys.run(arguments)
    assert message in str(raised.value)
