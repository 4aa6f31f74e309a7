"""The first bad operation, from traces made by hand."""

import math

from gradwatch.replaying.origin import Control, find_origin
from gradwatch.replaying.trace import Leaf, Line, Operation, Trace

NAN = math.nan


def operation(name, magnitude, parents, phase="forward", module="m", node=None, written=False):
    line = Line("model.py", 1)
    return Operation(
        phase=phase,
        module=module,
        name=name,
        node=node,
        line=line,
        parents=parents,
        is_written=written,
        magnitude=magnitude,
    )


def trace(magnitudes, loss=1.0, written=()):
    """An input, a = f(input), b = g(a), and the backward of b and a."""
    names = ["aten.a", "aten.b", "aten.db", "aten.da"]
    parents = [(-1,), (0,), (-2, 1), (2, 0)]
    operations = [
        operation(
            name,
            magnitude,
            before,
            phase="backward" if name.startswith("aten.d") else "forward",
            node=name[:5] + name[6:] if name.startswith("aten.d") else None,
            written=name in written,
        )
        for name, magnitude, before in zip(names, magnitudes[1:], parents, strict=True)
    ]
    leaves = {
        -1: Leaf(kind="input", name="x", magnitude=magnitudes[0]),
        -2: Leaf(kind="loss", name="0", magnitude=loss),
    }
    return Trace(operations=operations, leaves=leaves, ends=[3], classes={"m": "Module"})


HEALTHY = Control(trace=trace([1, 1, 1, 1, 1]), name="a healthy batch")


def test_the_first_nan_of_the_forward():
    found = find_origin(trace([1, 1, NAN, NAN, NAN], loss=NAN), HEALTHY, nonfinite=True)
    assert (found.direction, found.operation, found.class_name, found.control) == ("forward", "aten.b", "Module", 1.0)


def test_a_nan_that_the_backward_makes():
    found = find_origin(trace([1, 1, 1, 1, NAN]), HEALTHY, nonfinite=True)
    assert (found.direction, found.operation) == ("backward", "aten.a")


def test_a_nan_of_the_input_and_of_the_loss():
    found = find_origin(trace([NAN, NAN, NAN, NAN, NAN]), HEALTHY, nonfinite=True)
    assert (found.direction, found.module) == ("input", "x")
    assert find_origin(trace([1, 1, 1, NAN, NAN], loss=NAN), HEALTHY, nonfinite=True).direction == "loss"


def test_an_infinity_that_the_control_has_too_is_meant():
    control = Control(trace=trace([1, math.inf, 1, 1, 1]), name="")
    found = find_origin(trace([1, math.inf, NAN, NAN, NAN]), control, nonfinite=True)
    assert found.operation == "aten.b"


def test_without_a_control_an_infinity_that_was_written_is_meant():
    bad = trace([1, math.inf, NAN, NAN, NAN], written=("aten.a",))
    assert find_origin(bad, None, nonfinite=True).operation == "aten.b"
    assert find_origin(trace([1, math.inf, NAN, NAN, NAN]), None, nonfinite=True).operation == "aten.a"


def test_far_larger_than_the_control():
    found = find_origin(trace([1, 1, 1e4, 1e4, 1e4], loss=1e4), HEALTHY, nonfinite=False)
    assert (found.direction, found.operation, found.observed, found.control) == ("forward", "aten.b", 1e4, 1)
    assert find_origin(trace([1, 1, 1, 1e4, 1e4], loss=1e4), HEALTHY, nonfinite=False).direction == "loss"
    assert find_origin(trace([1e4] * 5), HEALTHY, nonfinite=False).direction == "input"
    assert find_origin(trace([1, 1, 1, 1, 1e4]), HEALTHY, nonfinite=False).direction == "backward"


def test_what_only_became_high_on_the_way_counts_from_there():
    found = find_origin(trace([1, 12, 100, 100, 100]), HEALTHY, nonfinite=False)
    assert found.operation == "aten.a"
    assert find_origin(trace([1, 12, 12, 12, 12]), HEALTHY, nonfinite=False) is None


def test_the_loss_of_a_control_that_has_none_of_its_own_is_no_measure():
    control = Control(trace=trace([1, 1, 1, 1, 1]), name="", has_loss=False)
    assert find_origin(trace([1, 1, 1, 1, 1], loss=1e4), control, nonfinite=False) is None


def test_what_does_not_reach_a_gradient_does_not_count():
    bad = trace([1, 1, 1, 1, 1])
    bad.operations.append(operation("aten.log", NAN, (0,)))
    assert find_origin(bad, HEALTHY, nonfinite=True) is None


def test_a_healthy_step_has_no_origin():
    assert find_origin(trace([1, 1, 1, 1, 1]), HEALTHY, nonfinite=False) is None
