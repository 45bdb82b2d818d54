"""Surroundings: what all fine-tuning jobs of a server share; and the folders of each."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from engine.command_io.finetuning.job import JobFolder
from server.files.store import Files
from server.finetuning.jobs.answering import AnswerChat
from server.finetuning.jobs.child import StartChild
from server.finetuning.jobs.folders import out_folder
from server.finetuning.jobs.idle_gate import IdleGate
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuneRecord
from server.metrics.values import Metrics
from server.served.models import ServedModels

MAX_DEATHS = 3  # of a process in a row that did not get on with its work
DEATH_PAUSES_S = (1.0, 10.0)  # after the first ones
FULL_DISK_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """num_threads: that one job computes on. gives_way: whether processes compute at priorities below the server's.
    answer_chat: what a model of the server answers to the body of a chat, for an owner and as work that gives way."""

    files: Files
    data_dir: str
    models: ServedModels
    metrics: Metrics
    publisher: Publisher
    gate: IdleGate
    start_child: StartChild
    answer_chat: AnswerChat
    num_threads: int = 1
    gives_way: bool = True
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep


def job_folder(around: Surroundings, record: FinetuneRecord) -> JobFolder:
    return JobFolder(out_folder(around.data_dir, record.id) / "job")
