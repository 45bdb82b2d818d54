"""Keys files for tests: the key of NAME is `secret-NAME`."""

import json
from pathlib import Path
from typing import Any

from server.keys.key import ApiKey, key_hash


def secret(name: str) -> str:
    return f"secret-{name}"


def bearer(name: str) -> dict[str, str]:
    """Headers of a request with that key."""
    return {"authorization": f"Bearer {secret(name)}"}


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """An entry of a keys file."""
    return {"name": name, "hash": key_hash(secret(name)), **fields}


def api_key(name: str = "ann", **fields: Any) -> ApiKey:
    return ApiKey(**entry(name, **fields))


def write_keys(path: Path, *entries: dict[str, Any]) -> str:
    """Replace the file at once, and return its path as an option has it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": entries}))
    new.chmod(0o600)
    new.rename(path)
    return str(path)
