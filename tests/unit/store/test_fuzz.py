"""A sample of benchmarks/store_fuzz.py, which flips every bit of the pages that matter most."""

import pytest

from gradwatch.store import FILE_NAME, StoreReader

from ...scripts import load

ONE_OF = {"schema (page 1)": 400, "elsewhere": 50}


@pytest.fixture(scope="module")
def fuzz():
    return load("store_fuzz")


def test_no_flipped_bit_makes_up_a_value_or_ends_in_a_traceback(fuzz, tmp_path):
    file = fuzz.example(tmp_path / "run") / FILE_NAME
    data = file.read_bytes()
    right, damaged = fuzz.contents(file.parent)
    assert damaged == 0
    seen = {}
    for name, chosen in fuzz.chosen_bits(file, elsewhere=5000).items():
        counts, faults = fuzz.run_flips(file, data, chosen[:: ONE_OF.get(name, 60)], right)
        assert [fault for fault in faults if ": slow" not in fault] == []
        seen |= {outcome: seen.get(outcome, 0) + count for outcome, count in counts.items()}
    assert min(seen[outcome] for outcome in ("same", "counted", "refused")) > 10
    assert file.read_bytes() == data


def test_what_is_flipped_is_noticed_in_every_table(fuzz, tmp_path):
    """A value that no checksum covered would be read as it is here."""
    file = fuzz.example(tmp_path / "run") / FILE_NAME
    right, _ = fuzz.contents(file.parent)
    assert all(right[table] for table in right)
    wrong = {table: [("made up",)] for table in right}
    for table in right:
        assert fuzz.compare(right | {table: wrong[table]}, right, damaged=1) == ("made up", table)
        assert fuzz.compare(right | {table: []}, right, damaged=0) == ("lost", table)
    with StoreReader(file.parent) as reader:
        assert reader.damaged_rows == 0
