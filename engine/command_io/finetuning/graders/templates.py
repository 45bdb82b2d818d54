"""Templates of graders: texts with references such as {{item.field}} and {{sample.output_text}}."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.command_io.finetuning.graders.faults import FaultKind, Ungradable
from engine.command_io.finetuning.graders.sample import FIELDS, Sample
from engine.errors import InvalidRequest, UnsupportedParameter
from engine.wording import quote

ITEM, SAMPLE = "item", "sample"

_MAX_STEPS = 32
_MAX_RENDERED = 1 << 17  # characters: a template may repeat a large value
_OPEN, _CLOSE = "{{", "}}"
_NAMESPACE = re.compile(rf"{ITEM}|{SAMPLE}")
_STEP = re.compile(r"""\.([\w$@-]+)|\[([0-9]{1,9})\]|\["([^"]+)"\]|\['([^']+)'\]""")
_HOW = "write {{item.FIELD}}, {{item.FIELD.PART[0]}} or {{sample.output_text}}"


@dataclass(frozen=True, slots=True)
class FieldReference:
    """A template's reference to a value. path: the field's name, then keys and indices. text: as written."""

    namespace: str
    path: tuple[str | int, ...]
    text: str

    @property
    def field(self) -> str:
        """Name of the field of the item or the sample."""
        return str(self.path[0])

    def value(self, item: Mapping[str, Any], sample: Sample) -> Any:
        """Return the value that the reference names. Raises Ungradable if there is none."""
        if self.namespace == SAMPLE:
            return self._within(sample.value(self.field), self.path[1:])
        return self._within(item, self.path)

    def _within(self, value: Any, path: tuple[str | int, ...]) -> Any:
        for step in path:
            match value, step:
                case Mapping(), str() if step in value:
                    value = value[step]
                case list(), int() if step < len(value):
                    value = value[step]
                case _:
                    raise Ungradable(FaultKind.INVALID_VARIABLE, f"there is no {{{{{self.text}}}}}")
        return value


@dataclass(frozen=True, slots=True)
class Template:
    parts: tuple[str | FieldReference, ...]

    @property
    def references(self) -> list[FieldReference]:
        return [part for part in self.parts if isinstance(part, FieldReference)]

    def rendered(self, item: Mapping[str, Any], sample: Sample) -> str:
        """Fill in the template: strings as they are, other values as JSON. Raises Ungradable if a value is missing, or
        the result too long."""
        texts, num_characters = [], 0
        for part in self.parts:
            texts.append(part if isinstance(part, str) else _text(part.value(item, sample)))
            num_characters += len(texts[-1])
            if num_characters > _MAX_RENDERED:
                raise Ungradable(
                    FaultKind.OTHER, f"a template has more than {_MAX_RENDERED:,} characters when filled in"
                )
        return "".join(texts)

    def least_length(self, item: Mapping[str, Any]) -> int:
        """Return a lower bound on the filled-in template's characters, for any sample. Raises Ungradable if the
        item lacks a value."""
        fixed = (part for part in self.parts if isinstance(part, str) or part.namespace == ITEM)
        return sum(len(part if isinstance(part, str) else _text(part.value(item, Sample("")))) for part in fixed)


def parse_template(text: str, param: str) -> Template:
    """Parse a template. param: the path of the text in the request. Raises InvalidRequest for an invalid reference."""
    parts: list[str | FieldReference] = []
    start = 0
    while (first := text.find(_OPEN, start)) >= 0:
        last = text.find(_CLOSE, first)
        if last < 0:
            raise InvalidRequest.of(param, f"has {{{{ without }}}}: {quote(text[first:])}; {_HOW}")
        parts += [text[start:first], _reference(text[first + len(_OPEN) : last].strip(), param)]
        start = last + len(_CLOSE)
    return Template(tuple(part for part in (*parts, text[start:]) if part))


def _reference(text: str, param: str) -> FieldReference:
    namespace = _NAMESPACE.match(text)
    position = 0 if namespace is None else namespace.end()
    path: list[str | int] = []
    while (step := _STEP.match(text, position)) is not None:
        name, index, *quoted = step.groups()
        path.append(int(index) if index is not None else next(each for each in (name, *quoted) if each is not None))
        position = step.end()
    if namespace is None or position < len(text) or not path or not isinstance(path[0], str):
        raise InvalidRequest.of(param, f"has the template {quote('{{' + text + '}}')}; {_HOW}")
    if len(path) > _MAX_STEPS:
        raise InvalidRequest.of(param, f"has a template of {len(path)} steps; it may have {_MAX_STEPS}")
    reference = FieldReference(namespace[0], tuple(path), text)
    if reference.namespace == SAMPLE and reference.field not in FIELDS:
        if reference.field == "output_audio":
            raise UnsupportedParameter.of(param, "reads sample.output_audio; models here answer with text")
        known = ", ".join(f"sample.{name}" for name in FIELDS)
        raise InvalidRequest.of(param, f"reads {quote('sample.' + reference.field)}; there are {known}")
    return reference


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise Ungradable(FaultKind.OTHER, "a value is nested too deeply") from None
