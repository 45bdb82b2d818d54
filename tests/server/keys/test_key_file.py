"""Keys files: what they may say, what is wrong with one by its path, and changes that leave the rest alone."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import OptionError
from server.keys.key import BudgetPeriod, key_hash, new_key
from server.keys.key_file import is_open_to_others, parse_keys, read_keys
from server.keys.key_file_edits import append_key, entry_text, replace_hash
from tests.helpers.keys import api_key, entry, secret
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

HASH = key_hash(secret("ann"))


def _spelled(*entries: dict[str, Any]) -> str:
    return json.dumps({"keys": entries})


def test_a_file_says_the_same_in_yaml_and_json() -> None:
    text = f"""
# who may call
keys:
  - name: ann
    hash: {HASH}
    weight: 2
    tokens_per_minute: 1000
    models: [small, org/large]
    expires: 2031-05-06T07:08:09Z
    budget_period: day
  - name: ben.2
    hash: {key_hash(secret("ben"))}
    admin: true
"""
    fields = {
        "weight": 2,
        "tokens_per_minute": 1000,
        "models": ["small", "org/large"],
        "expires": "2031-05-06T07:08:09Z",
        "budget_period": "day",
    }
    keys = parse_keys(text)
    spelled = _spelled(entry("ann", **fields), {"name": "ben.2", "hash": key_hash(secret("ben")), "admin": True})
    assert keys == parse_keys(spelled)
    ann, ben = keys
    assert (ann.weight, ann.models, ann.budget_period) == (2.0, ("small", "org/large"), BudgetPeriod.DAY)
    assert ann.expires is not None
    assert ann.expires.isoformat() == "2031-05-06T07:08:09+00:00"
    assert (ann.admin, ann.requests_per_minute, ben.admin, ben.weight) == (False, None, True, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("keys:\n", "keys: expected array, got null"),
        ("- a", "the file: expected object, got array"),
        ("key: []", "key is not a field; did you mean keys?"),
        ("{}", "the file: it lacks the required field keys"),
        ("keys: [", "line 1: not valid YAML"),
        ('{"keys": [}', "not valid JSON"),
        (_spelled(entry("ann", weigth=2)), "keys[0].weigth is not a field; did you mean weight?"),
        (_spelled(entry("ann"), {"name": "ben"}), "keys[1]: it lacks the required field hash"),
        (_spelled(entry("ann", requests_per_minute=0)), "keys[0].requests_per_minute: expected int >= 1"),
        (
            _spelled(entry("ann", requests_per_minute=1.5)),
            "keys[0].requests_per_minute: expected int | null, got float",
        ),
        (_spelled(entry("ann", max_concurrency=True)), "keys[0].max_concurrency: expected int | null, got bool"),
        (_spelled(entry("ann", weight=0)), "keys[0].weight: expected float >= 0.001"),
        (_spelled(entry("ann", models="small")), "keys[0].models: expected array | null, got str"),
        (_spelled(entry("ann", models=["a", 1])), "keys[0].models[1]: expected str, got int"),
        (_spelled(entry("ann", admin="yes")), "keys[0].admin: expected bool, got str"),
        (_spelled(entry("ann", expires="2031-05-06T07:08:09")), "keys[0].expires: expected datetime with a timezone"),
        (_spelled(entry("ann", expires="soon")), "keys[0].expires: Invalid RFC3339"),
        (_spelled(entry("ann", budget_period="week")), "keys[0].budget_period: Invalid enum value 'week'"),
        (_spelled(entry("ann"), entry("ann")), "keys[1].name is 'ann', which keys[0] has too"),
        (
            _spelled(entry("ann"), {**entry("ben"), "hash": HASH}),
            "keys[1].hash of ben is also that of ann",
        ),
        (_spelled({**entry("ann"), "hash": HASH.upper()}), "keys[0].hash of ann must be 'sha256:' and 64"),
        (_spelled({**entry("ann"), "hash": HASH[:-1]}), "keys[0].hash of ann must be"),
        (_spelled({**entry("ann"), "name": "-x"}), "keys[0].name is '-x'; it must be 1 to 64 letters"),
        (_spelled({**entry("ann"), "name": ""}), "keys[0].name is ''"),
        (_spelled({**entry("ann"), "name": "other"}), "keys[0].name is 'other'"),
        (_spelled({**entry("ann"), "name": "x" * 65}), "keys[0].name is"),
        ('{"keys": [{"name": "a", "name": "b"}]}', "name is given twice"),
        (f"keys:\n- name: a\n  hash: {HASH}\n  hash: {HASH}\n", "line 4: hash is given twice"),
        ("keys: &a [*a]", "keys[0]"),
        ("keys: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("keys: {{ keys }}", "line 1: a field's name must be a text"),
        ("keys:\n- ? [name]\n  : ann\n", "line 2: a field's name must be a text"),
        ("keys: !!int x", "not valid YAML: a value does not have the type"),
        ("keys: !!bool x", "not valid YAML: a value does not have the type"),
        ("keys: !!timestamp x", "not valid YAML: a value does not have the type"),
    ],
)
def test_what_is_wrong_is_told_by_its_path(text: str, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse_keys(text)
    assert message in str(raised.value)


def test_a_key_in_place_of_its_hash_is_not_told() -> None:
    key = new_key()
    with pytest.raises(OptionError) as raised:
        parse_keys(_spelled({"name": "ann", "hash": key}))
    assert key not in str(raised.value)


def test_no_keys_at_all_must_be_said() -> None:
    assert parse_keys("keys: []") == []


def test_the_example_is_one_of_each_kind() -> None:
    keys = read_keys(ROOT / "examples" / "keys.yaml")
    used = {name for key in keys for name in key.__struct_fields__ if getattr(key, name) != getattr(api_key(), name)}
    assert used == set(keys[0].__struct_fields__)
    assert sum(key.admin for key in keys) == 1


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_any_text_is_keys_or_an_error_of_ours(text: str) -> None:
    for spelled in (text, "keys:\n" + text, '{"keys": ' + text):
        with contextlib.suppress(OptionError):
            assert isinstance(parse_keys(spelled), list)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, content in ((tmp_path / "missing", None), (tmp_path / "binary", b"\xff\xfe"), (tmp_path / "bad", b"{")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(OptionError, match=str(path)):
            read_keys(path)


def test_a_file_that_others_may_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []")
    for mode, is_open in ((0o600, False), (0o640, False), (0o644, True), (0o602, True)):
        path.chmod(mode)
        assert is_open_to_others(path) is is_open


def test_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(key.startswith("hr-") and len(key) >= 40 for key in keys)


@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_a_new_file_is_for_its_owner_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    append_key(path, api_key("ann"))
    append_key(path, api_key("ben", models=("a",)))
    assert read_keys(path) == [api_key("ann"), api_key("ben", models=("a",))]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        f"# ours\nkeys:\n- name: ann  # the first\n  hash: {HASH}\n",
        f"# ours\nkeys:\n  - name: ann  # the first\n    hash: {HASH}",
        f"# ours\nkeys:\n    - hash: {HASH}\n      name: ann  # the first\n\n\n",
    ],
)
def test_an_entry_is_added_as_the_others_are_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    path.chmod(0o640)
    append_key(path, api_key("ben", weight=3))
    assert [key.name for key in read_keys(path)] == ["ann", "ben"]
    assert path.read_text().startswith(text.rstrip("\n"))
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_list_that_does_not_go_on_at_the_files_end_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    text = f"keys: [{{name: ann, hash: '{HASH}'}}]\n"
    path.write_text(text)
    with pytest.raises(OptionError, match="add this to that list:\n- name: ben"):
        append_key(path, api_key("ben"))
    assert path.read_text() == text


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    append_key(path, api_key("ann"))
    with pytest.raises(OptionError, match="rotate ann"):
        append_key(path, api_key("ann"))


def test_another_hash_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n# the first\n- name: ann\n  hash: {HASH}\n" + entry_text(api_key("ben")))
    before = path.read_text()
    replace_hash(path, "ann", key_hash("another"))
    assert path.read_text() == before.replace(HASH, key_hash("another"))
    with pytest.raises(OptionError, match="no key named 'eve'"):
        replace_hash(path, "eve", HASH)


def test_a_file_keeps_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    append_key(path, api_key("ann"))
    owners = []
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: owners.append((uid, gid)))
    replace_hash(path, "ann", key_hash("another"))
    append_key(path, api_key("ben"))
    assert owners == [(path.stat().st_uid, path.stat().st_gid)] * 2


def test_a_file_whose_owner_cannot_be_kept_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    append_key(path, api_key("ann"))

    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(OptionError, match=r"cannot write .*: Operation not permitted"):
        append_key(path, api_key("ben"))
    assert [key.name for key in read_keys(path)] == ["ann"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    append_key(tmp_path / "real.yaml", api_key("ann"))
    link = tmp_path / "keys.yaml"
    link.symlink_to("real.yaml")
    append_key(link, api_key("ben"))
    assert link.is_symlink()
    assert len(read_keys(tmp_path / "real.yaml")) == 2
