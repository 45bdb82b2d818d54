"""read_keys: parses a keys file; its errors name the line or field."""

import difflib
import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from engine.errors import OptionError
from server.keys.key import HASH_PREFIX, NAME_PATTERN, NO_NAMES, ApiKey

_HASH = re.compile(re.escape(HASH_PREFIX) + "[0-9a-f]{64}")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")
_MAX_BYTES = 16 * 2**20


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]


def read_keys(path: Path) -> list[ApiKey]:
    """Return the keys of the file, in order. Raises OptionError if the file cannot be read or is invalid."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise OptionError(f"{path} has more than {_MAX_BYTES} bytes; a keys file has a few hundred for each key")
    try:
        return parse_keys(data.decode())
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not UTF-8 text") from None
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error


def parse_keys(text: str) -> list[ApiKey]:
    """Return the keys in a YAML or JSON text. Raises OptionError, which names the field by its path."""
    try:
        keys = msgspec.convert(_parsed(text), _File).keys
    except msgspec.ValidationError as error:
        raise OptionError(_error_text(str(error))) from None
    _check(keys)
    return keys


def check_name(name: str, where: str) -> None:
    """Raise OptionError unless the name is allowed for a key. where: the place of the name, for the message."""
    if not re.fullmatch(NAME_PATTERN, name) or name in NO_NAMES:
        raise OptionError(
            f"{where} is {name[:80]!r}; it must be 1 to 64 letters, digits, '.', '_' and '-', begin with a letter or "
            f"digit, and not be {' or '.join(map(repr, sorted(NO_NAMES)))}"
        )


def is_open_to_others(path: Path) -> bool:
    """Whether users other than the file's owner and group may read or write it."""
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def _parsed(text: str) -> Any:
    if not text.strip():
        raise OptionError("the file is empty; write 'keys: []' for no keys at all")
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"not valid JSON: {error}") from None
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise OptionError(f"{line}not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise OptionError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, LookupError, AttributeError):  # by PyYAML, for "!!int x" and the like; they may quote a key
        raise OptionError("not valid YAML: a value does not have the type of its tag or form") from None


class _Loader(yaml.SafeLoader):
    """A SafeLoader that rejects repeated fields, and keeps timestamps as text, since PyYAML drops time zones."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise OptionError(f"line {line}: a field's name must be a text; is a template not filled in?")
            if key.value in seen:
                raise OptionError(f"line {line}: {key.value} is given twice; remove one")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise OptionError(f"{name} is given twice; remove one")
        fields[name] = value
    return fields


def _error_text(fault: str) -> str:
    """Return msgspec's message with the path first. For an unknown field, suggest the closest known one."""
    what, _, where = fault.partition(" - at ")
    path = where.strip("`").removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN_FIELD.fullmatch(what):
        known = ApiKey.__struct_fields__ if path else ("keys",)
        nearest = difflib.get_close_matches(unknown[1], known, n=1)
        field = f"{path}.{unknown[1]}" if path else unknown[1]
        return f"{field} is not a field{f'; did you mean {nearest[0]}?' if nearest else ' of a key'}"
    what = what.replace("`", "").replace("Expected", "expected", 1).replace("Object missing", "it lacks the", 1)
    return f"{path or 'the file'}: {what}"


def _check(keys: Iterable[ApiKey]) -> None:
    """Check what the schema does not express, such as unique names. Raises OptionError."""
    names: dict[str, int] = {}
    hashes: dict[str, str] = {}
    for number, key in enumerate(keys):
        where = f"keys[{number}]"
        check_name(key.name, f"{where}.name")
        if not _HASH.fullmatch(key.hash):  # it is not quoted: it may be the key itself
            raise OptionError(
                f"{where}.hash of {key.name} must be '{HASH_PREFIX}' and 64 hexadecimal digits in lower case; make a "
                "key and its hash with 'headrace keys new NAME'"
            )
        if key.name in names:
            raise OptionError(
                f"{where}.name is {key.name!r}, which keys[{names[key.name]}] has too; give each key its own name"
            )
        if key.hash in hashes:
            raise OptionError(f"{where}.hash of {key.name} is also that of {hashes[key.hash]}; make another key")
        names[key.name], hashes[key.hash] = number, key.name
