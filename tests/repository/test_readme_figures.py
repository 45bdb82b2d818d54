"""The figures of README.md's comparison are those of docs/performance.md, rounded."""

import re

import pytest

from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_ROWS = {  # in README.md: the beginning of the row in docs/performance.md
    "one stream: time per token": "S1, one stream: time per token",
    "one stream: time to the first token": "S1: time to first token",
    "8 streams: tokens per second": "S2, 8 streams: output tokens/s",
    "24 requests that share a prefix of 1,500 tokens": "S3, 24 requests",
    "a prompt of 2,000 tokens: prefill": "S4, a prompt of 2,000 tokens",
    "start, until ready": "start",
}
_TABLES = ("same GGUF | headrace | llama", "int4 | headrace", "bf16 | headrace | vLLM", "1.5B, Q4", "1.5B, bf16")


def _table(text: str, beginning: str) -> list[list[str]]:
    (table,) = re.findall(rf"^\| {re.escape(beginning)}.*\n(?:\|.*\n)+", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]


def _ratios(beginning: str) -> dict[str, float]:
    rows = _table((ROOT / "docs/performance.md").read_text(), beginning)[2:]
    return {row[0]: float(row[-1].split()[0]) for row in rows}


@pytest.mark.parametrize("column", range(len(_TABLES)))
def test_a_figure_of_the_readme_has_its_row(column: int) -> None:
    measured = _ratios(_TABLES[column])
    shown = {row[0]: row[column + 1] for row in _table((ROOT / "README.md").read_text(), "Qwen2.5-Coder | 0.5B")[2:]}
    assert shown.keys() == _ROWS.keys()
    for name, cell in shown.items():
        found = [ratio for row, ratio in measured.items() if row.startswith(_ROWS[name])]
        if cell == "-":
            assert not found, f"{name} was measured"
        else:
            (ratio,) = found
            decimals = len(cell.partition(".")[2])
            assert abs(float(cell) - ratio) <= 0.51 * 10**-decimals, name
