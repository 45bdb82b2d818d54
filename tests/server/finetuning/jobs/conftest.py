from pathlib import Path

import pytest
from fastapi import FastAPI

from tests.helpers.fake_client import make_app
from tests.helpers.fake_trainer import trained_client
from tests.server.jobs.conftest import in_no_time as in_no_time


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """A server whose jobs are trained by FakeChildren."""
    return make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path))
