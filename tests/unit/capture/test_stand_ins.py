"""Containers that stand in for classes that are not imported."""

import copy

import pytest

from gradwatch.capture.stand_ins import MappingStandIn, Structure, namedtuple_stand_in


def test_the_fields_of_a_structure_are_attributes():
    found = Structure("data.Batch", {"x": 1, "class_name": 2})
    assert (found.x, found.class_name) == (1, "data.Batch")
    with pytest.raises(AttributeError, match=r"the captured data\.Batch has no field 'y'"):
        _ = found.y
    assert repr(found) == "Structure('data.Batch', {'x': 1, 'class_name': 2})"


def test_a_structure_keeps_fields_of_its_own():
    fields = {"x": [1]}
    found = Structure("a", fields)
    fields["x"] = None
    assert found.x == [1]
    copied = copy.deepcopy(found)
    assert (copied.x, copied.x is found.x) == ([1], False)


def test_the_keys_of_a_mapping_are_attributes_too():
    found = MappingStandIn("transformers.BatchEncoding", {"ids": 1, 2: "two"})
    assert (found.ids, found[2], len(found)) == (1, "two", 2)
    assert found == {"ids": 1, 2: "two"}
    assert found.class_name == "transformers.BatchEncoding"
    with pytest.raises(AttributeError, match="mask"):
        _ = found.mask
    with pytest.raises(KeyError):
        _ = found["mask"]


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("data.Pair", "Pair"),
        ("Pair", "Pair"),
        ("data.<locals>", "NamedTuple"),
        ("", "NamedTuple"),
        ("a.class", "NamedTuple"),
    ],
)
def test_a_named_tuple_has_the_name_of_its_class_if_it_is_one(class_name, expected):
    made = namedtuple_stand_in(class_name, ["left", "right"])
    assert (made.__name__, made(1, 2).right) == (expected, 2)


@pytest.mark.parametrize("fields", [["_x"], ["class"], ["a", "a"], ["a b"], [""]])
def test_fields_without_a_valid_name_are_refused(fields):
    with pytest.raises(ValueError, match=r"[Ff]ield name|valid identifiers"):
        namedtuple_stand_in("Pair", fields)
