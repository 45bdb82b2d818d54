"""TaggedLayout: the text around calls whose arguments stand between tags, such as <parameter=KEY>VALUE</parameter>."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from server.tools.format import WrittenCall
from server.tools.layout import CallField, CallLayout, layout_words


@dataclass(frozen=True, slots=True)
class TaggedLayout:
    """The text around a call's name and arguments. The body is: name, after_name, arguments, close. An argument is:
    open_key, key, open_value, value, close_value."""

    call: CallLayout  # its body is NAME, after_name, ARGUMENTS, close
    open_key: str
    open_value: str
    close_value: str
    open_string: str | None = None  # instead of open_value, if the value is a string

    @property
    def after_name(self) -> str:
        return _text_between(self.call, CallField.NAME, CallField.ARGUMENTS)

    @property
    def close(self) -> str:
        return _text_between(self.call, CallField.ARGUMENTS, None)

    @property
    def marks(self) -> tuple[str, ...]:
        texts = (self.open_key, self.open_value, self.close_value, self.open_string or "")
        return (*self.call.marks, *CallLayout(begin="", open=" ".join(texts), body=()).marks)

    @property
    def closing_tag(self) -> tuple[str, str]:
        """The tag that ends a value, and the rest of close_value after it."""
        tag = layout_words(self.close_value)[0]
        return tag, self.close_value.partition(tag)[2]

    def open_value_of(self, *, is_string: bool) -> str:
        return self.open_string if is_string and self.open_string is not None else self.open_value

    def write(self, calls: Sequence[WrittenCall]) -> str:
        """Return the text of the calls, as the template writes an answer of only these calls."""
        return self.call.write([WrittenCall(call.name, self._write_arguments(call.arguments)) for call in calls])

    def _write_arguments(self, arguments: str) -> str:
        return "".join(
            self.open_key
            + key
            + self.open_value_of(is_string=isinstance(value, str))
            + (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            + self.close_value
            for key, value in json.loads(arguments).items()
        )


def _text_between(layout: CallLayout, first: CallField, last: CallField | None) -> str:
    start = layout.body.index(first) + 1
    stop = len(layout.body) if last is None else layout.body.index(last)
    return "".join(part for part in layout.body[start:stop] if isinstance(part, str))
