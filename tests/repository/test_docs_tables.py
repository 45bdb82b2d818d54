"""What the documents say of endpoints, options, metrics, models and rooms is what the code says."""

from pathlib import Path

import pytest

from tests.helpers.docs_tables import parts


@pytest.mark.parametrize(("name", "document", "part"), parts())
def test_generated_part_is_current(name: str, document: Path, part: str) -> None:
    section = document.read_text().partition(f"<!-- table: {name} -->\n")[2].partition("\n<!-- end -->")[0]
    assert section == part, "run `make docs`"


def test_every_row_of_a_table_says_something() -> None:
    for name, _, part in parts():
        rows = [line for line in part.splitlines() if line.startswith("|")]
        assert name == "floors" or len(rows) > 2
        for row in rows:
            assert all(cell.strip("` ") for cell in row.replace("\\|", "").strip("|").split("|")), f"{name}: {row}"
