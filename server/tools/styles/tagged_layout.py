"""TaggedLayout: the text around calls whose arguments stand between tags, such as <parameter=KEY>VALUE</parameter>."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from server.tools.format import WrittenCall
from server.tools.layout import CallField, CallLayout, layout_words

TYPE = "{type}"


@dataclass(frozen=True, slots=True)
class TaggedLayout:
    """The text around a call's name and arguments. The body is: name, after_name, arguments, close. An argument is:
    open_key, key, open_value, value, close_value."""

    call: CallLayout  # its body is NAME, after_name, ARGUMENTS, close
    open_key: str
    open_value: str  # TYPE in it stands for the name of the value's JSON type
    close_value: str
    open_string: str | None = None  # instead of open_value, if the value is a string

    @property
    def after_name(self) -> tuple[str | CallField, ...]:
        """Texts, INDEX where the call's number stands, and NAME where its name is repeated."""
        body = self.call.body
        return body[body.index(CallField.NAME) + 1 : body.index(CallField.ARGUMENTS)]

    @property
    def close(self) -> str:
        body = self.call.body
        return "".join(part for part in body[body.index(CallField.ARGUMENTS) + 1 :] if isinstance(part, str))

    @property
    def marks(self) -> tuple[str, ...]:
        texts = (self.open_key, self.open_value, self.close_value, self.open_string or "")
        return (*self.call.marks, *CallLayout(begin="", open=" ".join(texts), body=()).marks)

    @property
    def closing_tag(self) -> tuple[str, str]:
        """The tag that ends a value, and the rest of close_value after it."""
        tag = layout_words(self.close_value)[0]
        return tag, self.close_value.partition(tag)[2]

    def open_value_of(self, value: object) -> str:
        if isinstance(value, str) and self.open_string is not None:
            return self.open_string
        return self.open_value.replace(TYPE, _type_name(value))

    def write(self, calls: Sequence[WrittenCall]) -> str:
        """Return the text of the calls, as the template writes an answer of only these calls."""
        return self.call.write([WrittenCall(call.name, self._write_arguments(call.arguments)) for call in calls])

    def _write_arguments(self, arguments: str) -> str:
        return "".join(
            self.open_key
            + key
            + self.open_value_of(value)
            + (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            + self.close_value
            for key, value in json.loads(arguments).items()
        )


def _type_name(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")
