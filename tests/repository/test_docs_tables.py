"""The documents' tables of endpoints, options, metrics and models are the ones that the code gives."""

from pathlib import Path

import pytest

from tests.helpers.docs_tables import Table, markdown, tables


@pytest.mark.parametrize(("name", "document", "table"), [(name, *entry) for name, entry in tables().items()])
def test_table_is_current(name: str, document: Path, table: Table) -> None:
    assert len(table) > 1
    section = document.read_text().partition(f"<!-- table: {name} -->\n")[2].partition("\n<!-- end -->")[0]
    assert section == markdown(table), "run `make docs`"


def test_every_row_says_something() -> None:
    for name, (_, table) in tables().items():
        for row in table:
            assert all(cell.strip("` ") for cell in row), f"{name}: {row}"
