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
        raise InvalidRequest.of(param, f"is {quote(given)}; it must be a list of 1 to {_MAX_MESSAGES} messages")
    return tuple(_message(each, f"{param}[{index}]") for index, each in enumerate(given))


def _message(given: object, param: str) -> ScoreMessage:
    if not isinstance(given, dict):
        raise InvalidRequest.of(param, f"is {quote(given)}; it must be a message")
    if unknown := sorted(given.keys() - {"role", "content", "type"}):
        raise InvalidRequest.of(f"{param}.{unknown[0]}", "is not known; a message has role and content: remove it")
    if (role := given.get("role")) not in _ROLES:
        raise InvalidRequest.of(f"{param}.role", f"is {quote(role)}; it must be one of {', '.join(_ROLES)}")
    if given.get("type") not in (None, "message"):
        raise InvalidRequest.of(f"{param}.type", f"is {quote(given['type'])}; it must be 'message'")
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
        raise InvalidRequest.of(param, f"is {quote(given)}; it must be a text")
    kind, path = given.get("type"), f"{param}.type"
    if kind in _MEDIA:
        raise UnsupportedParameter.of(path, f"is {quote(kind)}; this server takes text parts only")
    if kind not in _TEXTS:
        raise InvalidRequest.of(path, f"is {quote(kind)}; it must be one of {', '.join(_TEXTS)}")
    if unknown := sorted(given.keys() - {"type", "text"}):
        raise InvalidRequest.of(f"{param}.{unknown[0]}", "is not known; remove it")
    if not isinstance(text := given.get("text"), str):
        raise InvalidRequest.of(f"{param}.text", f"is {quote(text)}; it must be a string")
    return parse_template(text, f"{param}.text")


def parse_sampling(given: object, param: str) -> ScoreSampling:
    """Parse the sampling parameters of a score_model. Raises InvalidRequest."""
    if given is None:
        return ScoreSampling()
    if not isinstance(given, dict):
        raise InvalidRequest.of(param, f"is {quote(given)}; it must be an object")
    if unknown := sorted(given.keys() - {*_KNOWN, *_LENGTHS}):
        raise InvalidRequest.of(f"{param}.{unknown[0]}", f"is not known; there are {', '.join(_KNOWN)}: remove it")
    lengths = [name for name in _LENGTHS if given.get(name) is not None]
    if len(lengths) == 2:
        raise InvalidRequest(f"{param} has {' and '.join(lengths)}; give one of them", param=f"{param}.{lengths[1]}")
    effort = given.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        raise InvalidRequest.of(
            f"{param}.reasoning_effort", f"is {quote(effort)}; it must be one of {', '.join(_EFFORTS)}"
        )
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
        raise InvalidRequest.of(f"{param}.top_p", "is 0; it must be above 0")
    return value


def _whole(given: dict[str, Any], name: str, param: str, least: int, most: int) -> int | None:
    value = _number(given, name, param, least, most)
    if value is not None and value != int(value):
        raise InvalidRequest.of(f"{param}.{name}", f"is {quote(given[name])}; it must be a whole number")
    return None if value is None else int(given[name])


def _number(given: dict[str, Any], name: str, param: str, least: float, most: float) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InvalidRequest.of(f"{param}.{name}", f"is {quote(value)}; it must be a number from {least:g} to {most:g}")
    return float(value)
