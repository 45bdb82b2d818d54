"""Values of `format` that are enforced. Others are annotations, as in JSON Schema."""

from collections.abc import Mapping

# Enforced by llguidance
FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"})

_POINTER = "(?:/(?:[^/~]|~[01])*)*"  # RFC 6901
_IN_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@\-]|%[0-9A-Fa-f]{2})"  # RFC 3986: pchar
_BEFORE_COLON = r"(?:[A-Za-z0-9._~!$&'()*+,;=@\-]|%[0-9A-Fa-f]{2})"
_QUERY = rf"(?:{_IN_PATH}|[/?])*"

# Enforced by a pattern. The pattern of uri-reference lacks addresses in brackets.
FORMAT_PATTERNS: Mapping[str, str] = {
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",
    "uri-reference": (
        rf"^(?:[A-Za-z][A-Za-z0-9+.\-]*:(?:{_IN_PATH}|/)*|(?:{_BEFORE_COLON}+(?:/{_IN_PATH}*)*)?|(?:/{_IN_PATH}*)+)"
        rf"(?:\?{_QUERY})?(?:#{_QUERY})?$"
    ),
}
