"""GigaChat 3: one call, a JSON object in a message of its own."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "gigachat3",
    CallLayout(
        begin="",
        open='<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "',
        body=(CallField.NAME, '", "arguments": ', CallField.ARGUMENTS, "}"),
        takes_several=False,
    ),
    other_triggers=("<|function_call|>",),
    takes_object_arguments=False,
    takes_several_calls=False,
)
