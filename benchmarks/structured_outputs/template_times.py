"""Time of a chat template in this process, and in a process that can be killed, as in the server.

python -m benchmarks.structured_outputs.template_times [template.jinja]
"""

import statistics
import sys
import time
from pathlib import Path

from benchmarks.tables import markdown
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.processes import TemplateProcesses
from server.text.chat_templates.runner import TemplateRunner

_DEFAULT = Path(__file__).parents[2] / "tests/fixtures/tokenizer/templates/qwen2.5.jinja"
_ROUNDS = 101
_TEXT = "hello world " * 50


def median_ms(runner: TemplateRunner, source: str, num_messages: int) -> float:
    """Return the median time for a chat with `num_messages`."""
    template = ChatTemplate(source, {}, frozenset({"<|im_start|>", "<|im_end|>"}), runner)
    chat = [{"role": ("user", "assistant")[i % 2], "content": _TEXT} for i in range(num_messages)]
    times = []
    for _ in range(_ROUNDS):
        began_s = time.perf_counter()
        template.render(chat)
        times.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(times)


def main() -> int:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else _DEFAULT).read_text(encoding="utf-8")
    processes, direct = TemplateProcesses(), DirectTemplates()
    rows = [
        [str(num), *(f"{median_ms(runner, source, num):.2f}" for runner in (direct, processes))] for num in (1, 20, 200)
    ]
    processes.close()
    sys.stdout.write(markdown(["messages", "in this process, ms", "in one of its own, ms"], rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
