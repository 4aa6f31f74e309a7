"""The columns of a data set are those that the documentation lists."""

import re
from pathlib import Path

import pytest

from gradwatch.export.dataset_tables import COLUMNS, SCHEMA_VERSION, schema

PAGE = (Path(__file__).parents[3] / "docs" / "many-runs.md").read_text(encoding="utf-8")


def documented():
    found = {table: {} for table in COLUMNS}
    for line in PAGE.partition("### Its columns")[2].partition("###")[0].splitlines():
        if row := re.fullmatch(r"\| ([\w, ]+) \| (`.*`) \| ([\w<>]+) \| .+ \|", line):
            tables = list(COLUMNS) if row[1] == "all" else row[1].split(", ")
            for table in tables:
                found[table] |= dict.fromkeys(re.findall(r"`(\w+)`", row[2]), row[3])
    return found


def test_every_column_is_documented_with_its_type():
    assert documented() == {table: dict(columns) for table, columns in COLUMNS.items()}
    assert f"version {SCHEMA_VERSION} of the columns" in PAGE


@pytest.mark.parametrize("table", COLUMNS)
def test_the_types_are_those_of_arrow(table):
    pytest.importorskip("pyarrow")
    assert [str(field.type).replace("item: ", "") for field in schema(table)] == [*COLUMNS[table].values()]
