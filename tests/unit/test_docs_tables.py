"""The README's tables of endpoints, options and metrics are the ones that the code gives."""

import pytest

from tests.helpers.docs_tables import README, Table, markdown, tables


@pytest.mark.parametrize(("name", "table"), tables().items())
def test_readme_table_is_current(name: str, table: Table) -> None:
    assert len(table) > 1
    section = README.read_text().partition(f"<!-- table: {name} -->\n")[2].partition("\n<!-- end -->")[0]
    assert section == markdown(table), "run `make docs`"


def test_every_row_says_something() -> None:
    for name, table in tables().items():
        for row in table:
            assert all(cell.strip("` ") for cell in row), f"{name}: {row}"
