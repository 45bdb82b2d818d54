"""Options of fine-tuning jobs that are refused at the start."""

import os

import pytest

from engine.errors import OptionError
from server.config.finetuning import FinetuningJobsConfig

pytestmark = pytest.mark.fast


def test_more_threads_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert FinetuningJobsConfig(finetune_threads=2).finetune_threads == 2
    with pytest.raises(OptionError, match=r"--finetune-threads is 3; this process can run 2 at once .*lower it"):
        FinetuningJobsConfig(finetune_threads=3)
