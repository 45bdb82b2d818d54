"""Edits of a keys file that leave the rest of its text unchanged."""

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from engine.errors import OptionError
from server.keys.key import ApiKey
from server.keys.key_file import parse_keys, read_keys

_PRIVATE = 0o600
_NO_KEYS = re.compile(r"^keys:\s*\[\s*\]\s*$", re.MULTILINE)


def entry_text(key: ApiKey) -> str:
    """Return the key's entry in YAML."""
    return yaml.safe_dump([_fields(key)], sort_keys=False, default_flow_style=False)


def append_key(path: Path, key: ApiKey) -> None:
    """Add a key at the end of the file, and create the file if it does not exist. Raises OptionError if the name is
    taken, or the file cannot be read or written."""
    if not path.exists():
        is_json = path.suffix == ".json"
        empty = '{"keys": []}' if is_json else "keys: []\n"
        _write(path, _with_key(empty, key), None)
        return
    if any(each.name == key.name for each in read_keys(path)):
        raise OptionError(
            f"{path} already has a key named {key.name!r}; choose another name, or replace its key with "
            f"'headrace keys rotate {key.name} --file {path}'"
        )
    _write(path, _with_key(path.read_text(encoding="utf-8"), key), path.stat())


def replace_hash(path: Path, name: str, new_hash: str) -> None:
    """Replace the hash of the named key. Raises OptionError if there is none, or the file cannot be read or written."""
    found = [key for key in read_keys(path) if key.name == name]
    if not found:
        raise OptionError(f"{path} has no key named {name!r}")
    text = path.read_text(encoding="utf-8")
    _write(path, text.replace(found[0].hash, new_hash), path.stat())


def _with_key(text: str, key: ApiKey) -> str:
    """Return the text with one more entry. Raises OptionError if the text does not end with the list of keys."""
    wanted = [*parse_keys(text), key]
    if text.lstrip().startswith("{"):
        content = json.loads(text)
        content["keys"].append(_fields(key))
        return json.dumps(content, indent=2) + "\n"
    start = _NO_KEYS.sub("keys:", text).rstrip("\n") + "\n"
    for indent in ("  ", "", "    "):
        longer = start + "".join(indent + line for line in entry_text(key).splitlines(keepends=True))
        with contextlib.suppress(OptionError):
            if parse_keys(longer) == wanted:
                return longer
    raise OptionError(f"the file does not end with its list of keys; add this to that list:\n{entry_text(key)}")


def _fields(key: ApiKey) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(msgspec.json.encode(key))
    return fields


def _write(path: Path, text: str, before: os.stat_result | None) -> None:
    """Replace the file atomically. Raises OptionError if it cannot be written.

    before: status of the old file, whose owner and permissions stay, so that a server under another user can still read
    it.
    """
    target = path.resolve()
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                if before is not None:
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), _PRIVATE if before is None else before.st_mode & 0o777)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}") from error
