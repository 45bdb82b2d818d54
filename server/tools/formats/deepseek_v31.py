"""DeepSeek V3.1: the name, a separator, and the arguments."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "deepseek_v31",
    CallLayout(
        begin="<｜tool▁calls▁begin｜>",
        open="<｜tool▁call▁begin｜>",
        body=(CallField.NAME, "<｜tool▁sep｜>", CallField.ARGUMENTS, "<｜tool▁call▁end｜>"),
        end="<｜tool▁calls▁end｜>",
    ),
    takes_object_arguments=False,
)
