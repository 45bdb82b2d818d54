"""The chat page and the dashboard in a real browser."""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import EngineUnavailable
from engine.protocol import EngineRequest, FinishReason, StepStats
from engine.protocol.sequence_events import Admitted, Computed, Queued, WaitReason, Waits
from server.live.feed import LiveFeed
from tests.helpers.fake_client import Step, make_app, says
from tests.helpers.keys import entry, write_keys
from tests.integrations.programs import Workplace, npm_program, python_program
from tests.integrations.scripted_server import scripted_client, serving

pytestmark = pytest.mark.integrations

_TIMEOUT_S = 400.0  # for half a minute, on a machine that has other work

_MARKDOWN = """\
## A title

It costs $O(n)$, or $5 or $6.

```python
def f(): return 1
```

$$\\sum_i x_i$$

| a | b |
| --- | --- |
| 1 | 2 |

<script>window.wasHacked = 1</script><img src=x onerror="window.wasHacked = 1"><b style="color: red">bold</b>
<dialog open>over the page</dialog>
![a picture](https://example.com/x.png) [a link](javascript:window.wasHacked=1)

The end.
"""
_LONG = "".join(f"- item {number} of **many**\n" for number in range(600)) + "\n" + "long" * 200 + "\n\nThe end."
_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class _Script:
    """Answers by what the last question says; all else is repeated."""

    def __init__(self) -> None:
        self._has_broken = False
        self.live: LiveFeed | None = None  # is told what an engine would tell

    def __call__(self, request: EngineRequest) -> list[Step]:
        asyncio.get_running_loop().call_soon(self._tell, request)  # when the request is known there
        prompt = bytes(each for each in request.prompt_ids if each < 256).decode()
        question = prompt.rpartition("user\n")[2].removesuffix("assistant\n").strip()
        question = question.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
        if question == "half and wait":
            return [*says("This is half of it")(request)[:-1], None]
        if question == "break once" and not self._has_broken:
            self._has_broken = True
            return [*says("This will")(request)[:-1], EngineUnavailable("the engine ended")]
        text = {"markdown": _MARKDOWN, "call the tool": _CALL, "something long": _LONG}.get(
            question, f"echo: {question}"
        )
        return says(text, per_step=5, finish=FinishReason.STOP)(request)

    def _tell(self, request: EngineRequest) -> None:
        if self.live is None:
            return
        now_s, num_new = time.monotonic(), len(request.prompt_ids) - 2
        events = [
            Queued(request.id, now_s, num_running=3, num_waiting=1, num_resumed=0),
            Waits(request.id, now_s + 0.001, WaitReason.SLOTS, is_shared=False),
            Admitted(request.id, now_s + 0.002, num_cached=2),
            Computed(request.id, now_s + 0.003, num_tokens=num_new, num_left=0),
        ]
        self.live.on_step(StepStats(events=events, step_s=0.001, blocks_total=64, blocks_used=9, blocks_cached=30))


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Of a server, and of one that asks for a key."""
    script = _Script()
    open_app = make_app(scripted_client(script))
    script.live = open_app.state.context.live
    keys = write_keys(
        tmp_path / "keys.json", entry("ann"), entry("root", admin=True), entry("old", expires="2020-01-01T00:00:00Z")
    )
    locked_app = make_app(scripted_client(_Script()), api_keys_file=keys)
    with serving(open_app) as open_url, serving(locked_app) as locked_url:
        yield open_url, locked_url


def test_the_pages(addresses: tuple[str, str], workplace: Workplace, browser: str, tmp_path: Path) -> None:
    python = python_program("playwright", "python")
    axe = npm_program("axe-core", "axe-core", "axe.min.js")
    script = Path(__file__).with_name("browse_pages.py")
    workplace.run([python, script, addresses[0], browser, axe, tmp_path, addresses[1]], timeout_s=_TIMEOUT_S)
    assert len(list(tmp_path.glob("*.png"))) == 30


@pytest.mark.parametrize(
    "subject", ["keyboard", "keeping", "storing", "tabs", "running", "continuing", "setting", "choosing"]
)
def test_the_chat_page(subject: str, workplace: Workplace, browser: str, tmp_path: Path) -> None:
    """Each subject with a server that it can kill."""
    python = python_program("playwright", "python")
    script = Path(__file__).parent / "chat_page" / f"{subject}.py"
    root = str(Path(__file__).parents[2])
    workplace.run([python, script, sys.executable, browser, tmp_path], timeout_s=_TIMEOUT_S, PYTHONPATH=root)


def test_the_chat_page_is_read_without_a_fault(workplace: Workplace, browser: str, tmp_path: Path) -> None:
    python = python_program("playwright", "python")
    axe = npm_program("axe-core", "axe-core", "axe.min.js")
    script = Path(__file__).parent / "chat_page" / "reading.py"
    root = str(Path(__file__).parents[2])
    workplace.run([python, script, sys.executable, browser, tmp_path, axe], timeout_s=_TIMEOUT_S, PYTHONPATH=root)
