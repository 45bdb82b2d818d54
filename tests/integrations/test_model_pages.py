"""The dashboard's models in a real browser: loading, unloading and fetching them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from engine.command_io.findings import ok
from engine.command_io.pulling import Pulled, PullMachine, PullProgress
from server.errors import PullFailed
from server.pulling.pulls import Pulls
from tests.helpers.keys import entry, write_keys
from tests.helpers.several import make_several
from tests.integrations.programs import Workplace, npm_program, python_program
from tests.integrations.scripted_server import serving

pytestmark = pytest.mark.integrations

_TIMEOUT_S = 300.0  # for some seconds, on a machine that has other work
_NEEDS = {"chat": 10, "org/coder": 10, "huge": 1000}
_MIB = 1 << 20


async def _fetch(model: str) -> AsyncGenerator[PullMachine | PullProgress | Pulled]:
    """small arrives; slow comes to its half, and to its end when it is fetched again; full finds no disk."""
    yield PullMachine(400 * _MIB)
    stage = f"download {model}"
    if model == "owner/full":
        yield PullProgress(stage, 1, 100 * _MIB, "B")
        raise PullFailed("the disk is full; free some space, or set HF_HOME to a folder on another disk")
    size = 100 * _MIB if model == "owner/small" else 800 * _MIB
    yield PullProgress(stage, size // 2, size, "B")
    if model == "owner/slow" and not _has_stopped:
        try:
            await asyncio.Event().wait()
        finally:
            _has_stopped.append(model)
    yield PullProgress("verify", size, size, "B")
    yield Pulled("/cache/model.gguf", size, ok("model", f"about {size >> 20} MiB of weights"))


_has_stopped: list[str] = []


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[list[str]]:
    """Of a server that may fetch, of one that may not, and of one that asks for a key."""
    _has_stopped.clear()
    keys = write_keys(tmp_path / "keys.json", entry("root", admin=True))
    open_app, off_app = make_several(_NEEDS, 25).app, make_several(_NEEDS, 25).app
    locked_app = make_several(_NEEDS, 25, api_keys_file=keys).app
    for app, patterns in ((open_app, ["owner/*", "demo:coder"]), (off_app, []), (locked_app, ["owner/*"])):
        app.state.context.pulls = Pulls(patterns, app.state.context.metrics, _fetch)
    with serving(open_app) as open_url, serving(off_app) as off_url, serving(locked_app) as locked_url:
        yield [open_url, off_url, locked_url]


def test_the_models(addresses: list[str], workplace: Workplace, browser: str, tmp_path: Path) -> None:
    python = python_program("playwright", "python")
    axe = npm_program("axe-core", "axe-core", "axe.min.js")
    script = Path(__file__).with_name("browse_models.py")
    workplace.run([python, script, browser, axe, tmp_path, *addresses], timeout_s=_TIMEOUT_S)
    assert len(list(tmp_path.glob("*.png"))) == 4
