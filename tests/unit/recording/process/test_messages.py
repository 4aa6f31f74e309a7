"""Steps, parameters, events and records as bytes, and back."""

import math

import numpy as np
import pytest

from gradwatch.distributed import ParameterPart
from gradwatch.record import Event, ParameterInfo, StepRecord
from gradwatch.recording.process.messages import (
    decode,
    decode_step,
    encode,
    encode_step,
    infos_of,
    late_of,
    parts_of,
    plain_event,
    plain_infos,
    plain_late,
    plain_parts,
    plain_record,
    record_of_plain,
)
from gradwatch.recording.records import ClippingNumbers, LateNumbers, OwnTotals, StepNumbers

VALUES = np.array([[1.5, math.nan, math.inf], [0.0, -0.0, 5e-324], [1e308, 1 / 3, 2.0]])
LATE = LateNumbers(
    loss=math.inf,
    clip_fault="after-step",
    clippings=(
        ClippingNumbers(max_norm=0.1, norm_type=math.inf, coefficient=None),
        ClippingNumbers(clip_value=1 / 3, cut_entries=2**60),
    ),
)


def numbers(**changes):
    given = {
        "step": 2**40,
        "wall_time": 1e9 + 1 / 3,
        "stats": dict(zip(("norm", "abs_max", "zeros"), VALUES, strict=True)),
        "with_gradient": None,
        "learning_rates": (0.1, math.nan),
        "loss_scale": 65536.0,
        "skipped": True,
        "late": LATE,
    }
    return StepNumbers(**(given | changes))


def back(given):
    kind, (settled, *values), data = decode(b"".join(encode_step("held", "the optimizer", given, ["b", "a"])))
    assert (kind, settled) == ("held", ("b", "a"))
    optimizer, found = decode_step(values, data)
    assert optimizer == "the optimizer"
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"with_gradient": [2, 0]},
        {"with_gradient": []},
        {"stats": {"norm": VALUES[0].copy(), "zeros": VALUES[1, ::-1]}},
        {"stats": {"norm": np.zeros(0)}},
        {"weights": {"weight_norm": VALUES[2, :2], "update_norm": VALUES[1, :2]}},
        {"updates": {"update_norm": VALUES[0]}, "with_update": [1]},
        {"updates": {"update_norm": VALUES[0]}, "with_update": [], "with_gradient": [1]},
        {"learning_rates": (), "loss_scale": None, "late": LateNumbers(loss=None, clip_fault=None, clippings=())},
        {"own": OwnTotals(norm=math.inf, nonfinite=3.0, before_reduction=True)},
    ],
)
def test_a_step_comes_back_bit_for_bit(changes):
    given = numbers(**changes)
    found = back(given)
    for name in ("step", "wall_time", "with_gradient", "loss_scale", "skipped", "late", "with_update", "own"):
        assert getattr(found, name) == getattr(given, name), name
    assert repr(found.learning_rates) == repr(given.learning_rates)
    for name in ("stats", "weights", "updates"):
        one, other = getattr(found, name), getattr(given, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert list(one) == list(other)
            for column in one:
                assert one[column].tobytes() == np.ascontiguousarray(other[column]).tobytes(), (name, column)


@pytest.mark.parametrize("table", [VALUES, np.asfortranarray(VALUES), VALUES[:, ::-1], VALUES[:, :0]])
def test_a_table_is_sent_in_one_piece_where_it_lies_in_one(table):
    stats = dict(zip(("norm", "abs_max", "zeros"), table, strict=True))
    found = back(numbers(stats=stats, table=table))
    for name, column in stats.items():
        assert found.stats[name].tobytes() == column.tobytes(), name
    sampled = {"weight_norm": np.ones(3), "update_norm": np.ones(3)}
    pieces = encode_step("put", "0", numbers(stats=stats, table=table, weights=sampled))[1:]
    of_table = [one for one in pieces if len(one) and np.shares_memory(np.frombuffer(one, np.float64), table)]
    assert len(of_table) == bool(table.size and table.strides[1] > 0), "without a copy where it has no gaps"
    assert len(pieces) - len(of_table) == 1, "and all other columns together"


def test_late_numbers_come_back():
    assert late_of(plain_late(LATE)) == LATE


def test_parameters_come_back():
    infos = [ParameterInfo(name='a "weight"\n', shape=(2, 3), dtype="bfloat16"), ParameterInfo(name="", shape=())]
    kind, (plain,), data = decode(b"".join(encode("infos", plain_infos(infos))))
    assert (kind, bytes(data)) == ("infos", b"")
    assert infos_of(plain) == infos


def test_parts_of_parameters_come_back():
    info = ParameterInfo(name="w", shape=(2, 3))
    parts = [ParameterPart(info=info, part="0-2,"), None, ParameterPart(info=info)]
    _, (plain,), _ = decode(b"".join(encode("join", plain_parts(parts))))
    assert parts_of(plain) == parts


def test_events_and_records_come_back():
    event = Event(step=3, kind="spike", severity="warning", message="é", observed=1 / 3, until=5, origin="loss", rank=2)
    assert Event(**plain_event(event)) == event
    record = StepRecord(step=3, total_norm=0.5, learning_rates=(0.1, 0.2), loss=1.0)
    assert record_of_plain(plain_record(record)) == record
