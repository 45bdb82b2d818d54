"""Names of models in Ollama's form: NAME:TAG, where a missing tag means `latest`."""

from collections.abc import Sequence

from server.errors import ModelNotFound
from server.schemas.base import quote

_LATEST = ":latest"


def tagged(name: str) -> str:
    """Return `name` with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def served_name(name: str, served: Sequence[str]) -> str:
    """Return the served name that `name` means. Raises ModelNotFound."""
    if name in served:
        return name
    for known in served:
        if tagged(known) == tagged(name):
            return known
    names = ", ".join(repr(tagged(known)) for known in served) or "none for this key"
    raise ModelNotFound(f"the model {quote(name)} is not served here; this server has {names}")
