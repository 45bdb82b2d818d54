"""ServerContext: the state that all routes share: models, options, metrics and storage."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.config.server import ServerConfig
from server.drain import Drain
from server.files.store import Files
from server.keys.manager import KeyManager
from server.live.feed import LiveFeed
from server.live.gpus import Gpus
from server.live.history import History
from server.live.log_tail import LogTail
from server.live.machine import MachineSampler
from server.metrics.values import Metrics
from server.pulling.pulls import Pulls
from server.runs.keyed_answers import KeyedAnswers
from server.runs.registry import Runs
from server.schemas.dashboard_server import Setting
from server.served.models import ServedModels
from server.store.entries import Entries
from server.text.workers import TextWorkers

if TYPE_CHECKING:
    from server.tracing.tracing import Tracing


@dataclass(slots=True)
class ServerContext:
    """The shared state of one server, created by create_app."""

    models: ServedModels
    config: ServerConfig
    metrics: Metrics
    runs: Runs
    answers: KeyedAnswers
    store: Entries
    files: Files
    keys: KeyManager
    workers: TextWorkers
    drain: Drain
    pulls: Pulls
    history: History
    gpus: Gpus
    machine: MachineSampler
    log: LogTail = field(default_factory=LogTail)
    settings: list[Setting] = field(default_factory=list)  # options in force; empty unless a command started the server
    wake_job: Callable[[str], None] = lambda _: None  # called with a job's id when it was created or its status changed
    tracing: "Tracing | None" = None
    created_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def live(self) -> LiveFeed:
        """The live feed of the first model."""
        return self.models.default.live
