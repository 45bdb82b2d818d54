"""A journal for the tests of a synthesis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.commands.synthesize.journal import AnswerJournal
from tests.helpers.synthesis_requests import RUN


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[AnswerJournal]:
    opened = AnswerJournal(str(tmp_path / "out.jsonl.journal"), RUN)
    yield opened
    opened.close()
