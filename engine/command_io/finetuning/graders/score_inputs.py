"""parse_messages, parse_sampling: the messages and sampling parameters of a score_model."""

from typing import Any

from engine.command_io.finetuning.graders.definitions import ScoreMessage, ScoreSampling
from engine.command_io.finetuning.graders.templates import Template, parse_template
from engine.errors import InvalidRequest, UnsupportedParameter
from engine.wording import quote

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text")
_MEDIA = ("input_image", "input_audio")
_MAX_MESSAGES = 64
_MAX_SEED = 2**63 - 1
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
# The first is the spelling of OpenAI's graders; the second, of all its other endpoints.
_LENGTHS = ("max_completions_tokens", "max_completion_tokens")
_KNOWN = ("max_completions_tokens", "reasoning_effort", "seed", "temperature", "top_p")


def parse_messages(given: object, param: str) -> tuple[ScoreMessage, ...]:
    """Parse the messages of a score_model. Raises InvalidRequest and UnsupportedParameter."""
    if not isinstance(given, list) or not 1 <= len(given) <= _MAX_MESSAGES:
        raise InvalidRequest(
            f"{param} is {quote(given)}; it must be a list of 1 to {_MAX_MESSAGES} messages", param=param
        )
    return tuple(_message(each, f"{param}[{index}]") for index, each in enumerate(given))


def _message(given: object, param: str) -> ScoreMessage:
    if not isinstance(given, dict):
        raise InvalidRequest(f"{param} is {quote(given)}; it must be a message", param=param)
    if unknown := sorted(given.keys() - {"role", "content", "type"}):
        path = f"{param}.{unknown[0]}"
        raise InvalidRequest(f"{path} is not known; a message has role and content: remove it", param=path)
    if (role := given.get("role")) not in _ROLES:
        raise InvalidRequest(
            f"{param}.role is {quote(role)}; it must be one of {', '.join(_ROLES)}", param=f"{param}.role"
        )
    if given.get("type") not in (None, "message"):
        raise InvalidRequest(f"{param}.type is {quote(given['type'])}; it must be 'message'", param=f"{param}.type")
    return ScoreMessage(role, _content(given.get("content"), f"{param}.content"))


def _content(given: object, param: str) -> Template:
    if not isinstance(given, list):
        return _part(given, param)
    parts = [part for index, each in enumerate(given) for part in _part(each, f"{param}[{index}]").parts]
    return Template(tuple(parts))


def _part(given: object, param: str) -> Template:
    if isinstance(given, str):
        return parse_template(given, param)
    if not isinstance(given, dict):
        raise InvalidRequest(f"{param} is {quote(given)}; it must be a text", param=param)
    kind, path = given.get("type"), f"{param}.type"
    if kind in _MEDIA:
        raise UnsupportedParameter(f"{path} is {quote(kind)}; this server takes text parts only", param=path)
    if kind not in _TEXTS:
        raise InvalidRequest(f"{path} is {quote(kind)}; it must be one of {', '.join(_TEXTS)}", param=path)
    if unknown := sorted(given.keys() - {"type", "text"}):
        raise InvalidRequest(f"{param}.{unknown[0]} is not known; remove it", param=f"{param}.{unknown[0]}")
    if not isinstance(text := given.get("text"), str):
        raise InvalidRequest(f"{param}.text is {quote(text)}; it must be a string", param=f"{param}.text")
    return parse_template(text, f"{param}.text")


def parse_sampling(given: object, param: str) -> ScoreSampling:
    """Parse the sampling parameters of a score_model. Raises InvalidRequest."""
    if given is None:
        return ScoreSampling()
    if not isinstance(given, dict):
        raise InvalidRequest(f"{param} is {quote(given)}; it must be an object", param=param)
    if unknown := sorted(given.keys() - {*_KNOWN, *_LENGTHS}):
        path = f"{param}.{unknown[0]}"
        raise InvalidRequest(f"{path} is not known; there are {', '.join(_KNOWN)}: remove it", param=path)
    lengths = [name for name in _LENGTHS if given.get(name) is not None]
    if len(lengths) == 2:
        raise InvalidRequest(f"{param} has {' and '.join(lengths)}; give one of them", param=f"{param}.{lengths[1]}")
    effort = given.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        path = f"{param}.reasoning_effort"
        raise InvalidRequest(f"{path} is {quote(effort)}; it must be one of {', '.join(_EFFORTS)}", param=path)
    return ScoreSampling(
        max_completion_tokens=_whole(given, lengths[0], param, 1, 1 << 20) if lengths else None,
        reasoning_effort=effort,
        seed=_whole(given, "seed", param, -_MAX_SEED - 1, _MAX_SEED),
        temperature=_number(given, "temperature", param, 0, 2),
        top_p=_top_p(given, param),
    )


def _top_p(given: dict[str, Any], param: str) -> float | None:
    value = _number(given, "top_p", param, 0, 1)
    if value == 0:  # which every request to the grading model would refuse
        raise InvalidRequest(f"{param}.top_p is 0; it must be above 0", param=f"{param}.top_p")
    return value


def _whole(given: dict[str, Any], name: str, param: str, least: int, most: int) -> int | None:
    value = _number(given, name, param, least, most)
    if value is not None and value != int(value):
        raise InvalidRequest(
            f"{param}.{name} is {quote(given[name])}; it must be a whole number", param=f"{param}.{name}"
        )
    return None if value is None else int(given[name])


def _number(given: dict[str, Any], name: str, param: str, least: float, most: float) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InvalidRequest(
            f"{param}.{name} is {quote(value)}; it must be a number from {least:g} to {most:g}", param=f"{param}.{name}"
        )
    return float(value)
