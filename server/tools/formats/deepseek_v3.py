"""DeepSeek V3 and R1: the arguments in a Markdown block of JSON."""

from server.tools.layout import CallField, CallLayout
from server.tools.styles.json_format import JsonFormat

FORMAT = JsonFormat(
    "deepseek_v3",
    CallLayout(
        begin="<｜tool▁calls▁begin｜>",
        open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        body=(CallField.NAME, "\n```json\n", CallField.ARGUMENTS, "\n```<｜tool▁call▁end｜>"),
        separator="\n",
        end="<｜tool▁calls▁end｜>",
    ),
    takes_object_arguments=False,
)
