"""EngineCallbacks: whom the engine's client tells its news."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.client.interface import RestartReason
from engine.client.queue.first_token import FirstToken
from engine.protocol import EngineInfo, Loading, StepStats, TokenizerInfo


def _ignore(*_: object) -> None:
    """The callback of a caller that does not listen."""


@dataclass(frozen=True, slots=True)
class EngineCallbacks:
    """What to call when there is news from the engine. on_discarded: see OutputStream. on_process: with the id of the
    process that runs from now on, and with None when it has ended. on_first_token: with what was predicted of a request
    and the seconds that it took."""

    on_step: Callable[[StepStats], None] = _ignore
    on_loading: Callable[[Loading], None] = _ignore
    on_tokenizer: Callable[[TokenizerInfo], None] = _ignore
    on_discarded: Callable[[int], None] = _ignore
    on_first_token: Callable[[FirstToken, float], None] = _ignore
    on_restart: Callable[[RestartReason], None] = _ignore
    on_process: Callable[[int | None], None] = _ignore
    on_ready: Callable[[EngineInfo], None] = _ignore
