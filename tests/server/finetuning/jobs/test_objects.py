"""What a trainer says, as clients read it."""

from pathlib import Path

import pytest

from server.finetuning.jobs.objects import for_clients
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.fake_client import make_app
from tests.helpers.fake_trainer import (
    DIFFERENT,
    SAMPLE,
    FakeChildren,
    add_job,
    events_of,
    finetuning_runs,
    trained_client,
    until_status,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "give --max-length 256 or a lower --learning-rate-multiplier",
            "give max_length 256 or a lower learning_rate_multiplier",
        ),
        ("choose --device cpu, or name another --out", "choose --device cpu, or name another --out"),
        ("/srv/data/job/start holds no adapter: /srv/x.json: empty", "start holds no adapter: x.json: empty"),
        ("Permission denied: '/srv/data/fine-tuning/ftjob-1/job/events.jsonl'", "Permission denied: 'events.jsonl'"),
        ("see https://example.com/a/b and a/b/c, 3/4 or /help", "see https://example.com/a/b and a/b/c, 3/4 or /help"),
        ("~/models/x.gguf is empty", "x.gguf is empty"),
    ],
)
def test_flags_are_fields_and_folders_are_not_told(message: str, told: str) -> None:
    assert for_clients(message) == told


async def test_samples_are_told_as_they_are(tmp_path: Path) -> None:
    app = make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path))
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
        events = await events_of(app, job.id)
        assert events.count(SAMPLE) == 2
        assert DIFFERENT in events
