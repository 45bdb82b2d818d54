"""Headers of answers in the OpenAPI document: the rest of a key's rates."""

from collections.abc import Mapping
from typing import Any

_ANTHROPIC_PATH = "/v1/messages"
_KINDS = ("requests", "tokens")

HEADERS: Mapping[str, Mapping[str, Any]] = {
    **{
        name: {"description": description, "schema": {"type": "string"}}
        for kind in _KINDS
        for name, description in (
            (f"x-ratelimit-limit-{kind}", f"Of a key with such a limit: {kind} that it may have in a minute."),
            (f"x-ratelimit-remaining-{kind}", f"The same: {kind} that it may have now."),
            (f"x-ratelimit-reset-{kind}", "The same: how long until it may have all again, such as 6m0s or 28ms."),
            (f"anthropic-ratelimit-{kind}-limit", f"Of a key with such a limit: {kind} that it may have in a minute."),
            (f"anthropic-ratelimit-{kind}-remaining", f"The same: {kind} that it may have now."),
            (f"anthropic-ratelimit-{kind}-reset", "The same: when it may have all again, in RFC 3339."),
        )
    }
}


def rate_header_references(path: str) -> dict[str, Any]:
    """Return the rate headers of a path, in the form of its protocol."""
    prefix = "anthropic-" if path.startswith(_ANTHROPIC_PATH) else "x-"
    return {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS if name.startswith(prefix)}
