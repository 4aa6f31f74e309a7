"""A store with forty steps of one optimizer and then ten of another, and how a test damages it before it is read."""

import sqlite3

import pytest

from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.store.integrity import Integrity
from gradwatch.store.opening import Database
from gradwatch.testing import PARAMETERS

from .two_optimizers import OTHERS, RECORDS


@pytest.fixture
def two_optimizers(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {}), "1": ("SGD", {})})
    for name in "01":
        writer.add_parameters(name, PARAMETERS)
    writer.append(RECORDS)
    writer.append(OTHERS)
    writer.end_attempt("closed")
    return tmp_path


@pytest.fixture
def folder(two_optimizers):
    """Of the store that `opened` opens; a test file with another store has a fixture of this name."""
    return two_optimizers


@pytest.fixture
def opened(folder):
    """Run statements on the store, then open it: the database, and which of its rows are intact."""
    databases = []

    def change(*statements):
        db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
        for statement in statements:
            db.execute(statement)
        db.close()
        databases.append(Database(folder / FILE_NAME))
        return databases[-1], Integrity(databases[-1].layout)

    yield change
    for one in databases:
        one.close()
