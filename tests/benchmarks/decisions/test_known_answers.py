"""Rows from the published data sets, read from files like theirs."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.decisions.known_answers import line_of, mails, topics, words
from server.commands.calibrate.rows import read_known_rows

pytestmark = pytest.mark.fast


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_rows_of_all_sets_are_those_that_calibrate_reads(tmp_path: Path) -> None:
    html = "From: a\nSubject: Win\n now\nContent-Type: text/html\n\n<style>p {}</style><p>Buy&nbsp;<b>pills</b>!</p>"
    for folder, text in (("spam-1", html), ("easy-ham-1", "Subject: Re: talk\n\nSee you   at six.\n")):
        _write(tmp_path / "data" / folder / "1.json", json.dumps({"text": text}))
        _write(tmp_path / "data" / folder / "1.txt", "not read")
    _write(
        tmp_path / "topics" / "tech_support.yml", "conversations:\n- - Is it on?\n  - No.\n- - Is it on?\n  - Yes.\n"
    )
    _write(tmp_path / "topics" / "food.yml", "conversations:\n- - Do you eat?\n  - No.\n")
    _write(tmp_path / "lexicon.txt", "bad\t-2.5\t0.6\t[]\n:-)\t1.3\t0.5\t[]\ngood\t1.9\t0.9\t[]\nso\t-2.0\t0.9\t[]\n")
    draw = random.Random(0)
    found = [
        *mails(tmp_path / "data", 10, draw),
        *topics(tmp_path / "topics", 10, draw),
        *words(tmp_path / "lexicon.txt", 10, draw),
    ]
    assert [(text, answer) for text, _, answer in found[:4]] == [
        ("Subject: Win now\n\nBuy pills !", True),
        ("Subject: Re: talk\n\nSee you at six.", False),
        ("Do you eat?", "food"),
        ("Is it on?", "tech support"),
    ]
    assert sorted((text, answer) for text, _, answer in found[4:]) == [("bad", 0), ("good", 2), ("so", 0)]
    _write(tmp_path / "rows.jsonl", "".join(map(line_of, found)))
    rows = read_known_rows(str(tmp_path / "rows.jsonl"), min_mass=0.01, max_line_bytes=10_000)
    assert [row.right[0] for row in rows[:4]] == [0, 1, 0, 1]
