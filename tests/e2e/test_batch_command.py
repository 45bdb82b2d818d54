"""`headrace batch` with a real engine: killed, and run again on a terminal, it has answered each line once."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.conftest import FAST_START

DEADLINE_S = 120.0
NUM_LINES = 24


def _command(folder: Path) -> list[str]:
    model = ("--model", "demo", *FAST_START[:4])
    return [sys.executable, "-m", "server.cli", "batch", str(folder / "in"), str(folder / "out"), *model]


def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": url, "body": body}
        for number, (url, body) in enumerate(_bodies())
    ]
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    with subprocess.Popen([*_command(tmp_path), "--max-num-seqs", "2"], stderr=subprocess.DEVNULL) as first:
        began_s = time.monotonic()
        while first.poll() is None and not (out.exists() and out.stat().st_size):
            assert time.monotonic() - began_s < DEADLINE_S, "no line is answered"
            time.sleep(0.02)
        first.kill()
    num_before = out.read_bytes().count(b"\n")
    shown, code = _on_terminal(_command(tmp_path))
    assert code == 0, shown
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(int(answer["custom_id"]) for answer in answers) == list(range(NUM_LINES))
    assert all(answer["response"]["status_code"] == 200 for answer in answers)
    bodies = [answer["response"]["body"] for answer in answers]
    generated = [body["usage"]["completion_tokens"] for body in bodies if "choices" in body]
    assert generated == [30] * (NUM_LINES - 2)
    assert sorted(len(body["usage"]) for body in bodies if "answers" in body or "results" in body) == [5, 5]
    assert 0 < num_before <= NUM_LINES
    if num_before < NUM_LINES:
        assert "continuing with the rest" in shown
        assert re.search("✓ answer lines +━+ 24 lines", shown), shown


def _bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    question = {"type": "predicate", "instructions": "It floats."}
    yield "/v1/decisions", {"input": "A raft.", "questions": [question], "min_mass": 0}
    yield "/v1/moderations", {"input": "A raft.", "min_mass": 0}
    for number in range(2, NUM_LINES):
        yield "/v1/completions", {"prompt": f"{number} is", "max_tokens": 30, "ignore_eos": True}


def _on_terminal(command: list[str]) -> tuple[str, int]:
    """What a terminal gets, without what moves its cursor, and the exit code."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 4096):
                shown += chunk
        except OSError:  # the other end is closed
            pass
        code = process.wait(DEADLINE_S)
    os.close(master)
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode()), code
