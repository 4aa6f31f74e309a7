"""Captures from strangers and damaged ones: refused with an error of ours, quickly, and without harm."""

import contextlib
import json
import os
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gradwatch.capture import Capture, Forward, Group, describe, read, take_random_state, write
from gradwatch.errors import CaptureDamaged, CaptureNotFound, CaptureTooLarge, CaptureTooNew, GradwatchError


def make(folder):
    np.random.get_state()  # imported, so that its state is kept
    forward = Forward(
        args=(torch.randn(2, 3), {"n": [1, None]}, torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.cfloat)),
        kwargs={"mask": torch.ones(2, dtype=torch.bool)},
        random_state=take_random_state(),
        buffers={"b": torch.ones(1)},
        output_gradients=(torch.ones(2),),
    )
    capture = Capture(
        run="r",
        step=3,
        optimizer="0",
        why="nonfinite",
        groups=(Group(forwards=(forward,)),),
        weights={"w": torch.ones(2)},
        gradients={"w": torch.ones(2)},
    )
    return write(capture, folder)


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "step-000003")


def change(folder, function):
    path = folder / "capture.json"
    found = json.loads(path.read_text())
    function(found)
    path.write_text(json.dumps(found))


def first(found):
    return found["groups"][0][0]


def put_arg(node):
    def function(found):
        first(found)["args"]["list"][0] = node

    return function


def put(*keys, value):
    def function(found):
        at = found
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return function


BIG = 2**50


@pytest.mark.parametrize(
    "function",
    [
        put_arg({"tensor": "t99", "shape": [1], "dtype": "float32"}),
        put_arg({"tensor": "t0", "shape": [BIG], "dtype": "float32"}),
        put_arg({"tensor": "t0", "shape": [BIG, 0, BIG], "dtype": "float32"}),
        put_arg({"tensor": "t0", "shape": [-2, -3], "dtype": "float32"}),
        put_arg({"tensor": "t0", "shape": [2.0, 3], "dtype": "float32"}),
        put_arg({"tensor": "t0", "shape": "23", "dtype": "float32"}),
        put_arg({"tensor": "t0", "shape": [2, 3], "dtype": "float64"}),
        put_arg({"tensor": "t0", "shape": [2, 3], "dtype": "complex64"}),
        put_arg({"tensor": "t0", "shape": [2, 3], "dtype": "save"}),
        put_arg({"tensor": "t0", "shape": [2, 3], "dtype": ["float32"]}),
        put_arg({"tensor": "t0", "shape": [2, 3], "dtype": "float32", "order": [0, 0]}),
        put_arg({"tensor": "t0", "shape": [2, 3], "dtype": "float32", "order": [5, 6]}),
        put_arg({"tensor": ["t0"], "shape": [2, 3], "dtype": "float32"}),
        put_arg({"tensor": {}, "shape": [2, 3], "dtype": "float32"}),
        put_arg({"sparse": "coo", "size": [2, 2]}),
        put_arg({"sparse": "__class__", "size": [2, 2]}),
        put_arg({"sparse": "coo", "size": [BIG, BIG], "indices": {}, "values": {}}),
        put_arg({"import": "os"}),
        put_arg({"__init__": []}),
        put_arg({"tensors": []}),
        put_arg({"random_state": {}}),
        put_arg({"namedtuple": "os.system", "fields": {"1 x": 1}}),
        put_arg({"namedtuple": "os.system", "fields": {"_x": 1}}),
        put_arg({"namedtuple": "os.system", "fields": ["x"]}),
        put_arg({"dataclass": "os.system", "fields": None}),
        put_arg({"mapping": "os.environ", "items": [[1, 2, 3]]}),
        put_arg({"mapping": ["x"], "items": []}),
        put_arg({"dict": [[{"list": []}, 1]]}),
        put_arg({"set": [{"list": []}]}),
        put_arg({"slice": [1]}),
        put_arg({"range": [1, 2, 0]}),
        put_arg({"range": [1, "x", 1]}),
        put_arg({"float": "1"}),
        put_arg({"complex": ["x", 1]}),
        put_arg({"bytes": "zz"}),
        put_arg({"device": "nowhere:x"}),
        put_arg({"torch_size": [-1]}),
        put_arg({"packed_sequence": [1, 2, 3, 4]}),
        put_arg({"packed_sequence": []}),
        put_arg({"numpy": 3}),
        put_arg({}),
        put_arg([]),
        put("groups", value={"x": 1}),
        put("groups", value=[[3]]),
        put("why", value="because"),
        put("step", value="x"),
        put("step", value=None),
        put("total_norm", value=[1]),
        put("loss_scale", value={"float": None}),
        put("weights", value=[1]),
        put("weights", value={"w": {"tensor": "t0", "shape": [3], "dtype": "float32"}}),
        put("weights", value={"w": 3}),
        put("kept", value=3),
        put("settings", value=3),
        put("not_kept", value=3),
        lambda found: first(found).update(args={"dict": []}),
        lambda found: first(found).update(kwargs={"dict": [[1, 2]]}),
        lambda found: first(found).update(random_state=None),
        lambda found: first(found).update(random_state={"python": []}),
        lambda found: first(found)["random_state"].update(cpu=first(found)["args"]["list"][0]),
        lambda found: first(found).update(autocast={"cpu": 3}),
        lambda found: first(found).update(training=3),
        lambda found: first(found).update(output_gradients=3),
        lambda found: first(found).update(output_gradients=[3]),
        lambda found: found.pop("groups"),
        lambda found: found.pop("weights"),
    ],
)
def test_a_description_that_is_not_of_these_files_is_refused(folder, function):
    change(folder, function)
    with pytest.raises(CaptureDamaged):
        read(folder)


def test_a_class_named_by_a_capture_is_not_imported(folder):
    name = "this_module_prints"
    change(folder, put_arg({"dataclass": f"{name}.X", "fields": {"x": 1}}))
    assert read(folder).groups[0].forwards[0].args[0].x == 1
    assert name not in sys.modules
    change(folder, put_arg({"mapping": "subprocess.Popen", "items": [["args", "false"]]}))
    assert read(folder).groups[0].forwards[0].args[0].args == "false"


@pytest.mark.parametrize("position", [-1, 625, 10**6, 2**31, "x", None])
def test_a_position_beyond_the_state_of_numpy_is_refused(folder, position):
    """numpy itself takes any, and reads beyond its memory."""
    change(folder, lambda found: first(found)["random_state"]["numpy"].__setitem__(2, position))
    with pytest.raises(CaptureDamaged, match="random numbers"):
        read(folder)


@pytest.mark.parametrize(
    "nodes",
    [
        [{"namedtuple": f"m.C{at}", "fields": {f"f{at}": 1}} for at in range(1000)],
        [{"namedtuple": "m.C", "fields": {f"f{at}": 1 for at in range(1000)}}],
    ],
    ids=["many", "large"],
)
def test_no_more_classes_are_made_than_a_batch_may_have(folder, nodes):
    change(folder, put_arg({"list": nodes}))
    with pytest.raises(CaptureDamaged, match="named tuples"):
        read(folder)


def test_a_step_of_more_forwards_than_can_be_replayed_is_refused(folder, monkeypatch):
    monkeypatch.setattr("gradwatch.capture.files.MOST_FORWARDS", 3)
    change(folder, lambda found: found["groups"].extend(found["groups"] * 2))
    read(folder)
    change(folder, lambda found: found["groups"][0].append(first(found)))
    with pytest.raises(CaptureTooLarge, match="4 forwards"):
        read(folder)


@pytest.mark.parametrize("kind", ["set", "frozenset", "dict"])
def test_numbers_that_are_long_looked_for_are_refused(folder, kind):
    """Python looks at all of them for each, because all have one hash."""
    numbers = [at * (2**61 - 1) for at in range(1, 200_000)]
    change(folder, put_arg({kind: [[one, 1] for one in numbers] if kind == "dict" else numbers}))
    with pytest.raises(CaptureDamaged, match="no text"):
        read(folder)


def test_the_state_of_a_generator_has_a_size(folder):
    tensors = load_file(folder / "forwards.safetensors")
    name = json.loads((folder / "capture.json").read_text())["groups"][0][0]["random_state"]["python"][1]["tensor"]
    tensors[name] = torch.zeros(10**6, dtype=torch.int64)
    save_file(tensors, folder / "forwards.safetensors")
    change(folder, lambda found: first(found)["random_state"]["python"][1].update(shape=[10**6]))
    with pytest.raises(CaptureDamaged, match="random numbers"):
        read(folder)


def test_a_sparse_tensor_that_is_named_often_is_made_once(folder):
    change(folder, lambda found: first(found)["args"]["list"].append(first(found)["args"]["list"][2]))
    args = read(folder).groups[0].forwards[0].args
    assert args[2] is args[-1]


def describe_or_refuse(folder):
    try:
        return str(describe(folder))
    except GradwatchError as error:
        return str(error)


@pytest.mark.parametrize("key", ["not_kept", "model", "optimizer", "why", "step"])
def test_a_long_text_is_not_told_whole(folder, key):
    change(folder, put(key, value=["x" * 10**6] * 50 if key == "not_kept" else "x" * 10**6))
    found = describe_or_refuse(folder)
    assert len(found) < 25_000
    with contextlib.suppress(GradwatchError):
        assert max(map(len, [*read(folder).not_kept, ""])) < 2000


def test_deep_nesting_is_refused(folder):
    text = (folder / "capture.json").read_text()
    deep = '{"list":[' * 5000 + "1" + "]}" * 5000
    (folder / "capture.json").write_text(text.replace('"args": {"list": [', f'"args": {{"list": [{deep},', 1))
    with pytest.raises(CaptureDamaged):
        read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"version": "1"}', "NaN", '{"version": NaN}', "\0"])
def test_what_is_no_description_is_refused(folder, text):
    (folder / "capture.json").write_text(text)
    for function in (read, describe):
        with pytest.raises(CaptureDamaged):
            function(folder)


def test_a_newer_format_is_refused_with_its_number(folder):
    change(folder, put("version", value=99))
    for function in (read, describe):
        with pytest.raises(CaptureTooNew, match="99"):
            function(folder)


@pytest.mark.parametrize("name", ["capture.json", "weights.safetensors", "forwards.safetensors"])
def test_a_file_that_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CaptureNotFound, match=name.replace(".", r"\.")):
        read(folder)


@pytest.mark.parametrize("name", ["capture.json", "weights.safetensors"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    moved = tmp_path / "elsewhere"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    with pytest.raises(CaptureDamaged, match="not a plain file"):
        read(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["capture.json", "weights.safetensors"])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CaptureDamaged, match="not a plain file"):
        read(folder)


def test_more_bytes_than_allowed_are_not_read(folder):
    os.truncate(folder / "weights.safetensors", 2**33)  # a file with holes: large, and nothing on the disk
    with pytest.raises(CaptureTooLarge):
        read(folder, most_bytes=2**32)
    with pytest.raises(CaptureTooLarge):
        read(folder, most_bytes=10)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}" + b"\x00" * 100,
        struct.pack("<Q", 200) + b"{}",
        b'{"x": 1}' * 9,
    ],
)
def test_a_file_of_tensors_that_is_none_is_refused(folder, content):
    (folder / "forwards.safetensors").write_bytes(content)
    with pytest.raises(CaptureDamaged):
        read(folder)


def test_a_header_that_claims_more_than_is_there_is_refused(folder):
    header = json.dumps({"t0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CaptureDamaged):
        read(folder)


def test_sparse_indices_out_of_bounds_are_refused(folder):
    sparse = json.loads((folder / "capture.json").read_text())["groups"][0][0]["args"]["list"][2]
    name = sparse["indices"]["tensor"]
    tensors = load_file(folder / "forwards.safetensors")
    tensors[name] = tensors[name] + 1000
    save_file(tensors, folder / "forwards.safetensors")
    with pytest.raises(CaptureDamaged):
        read(folder)


def test_a_file_cut_at_any_place_is_refused(folder):
    for name in ("weights.safetensors", "forwards.safetensors", "capture.json"):
        whole = (folder / name).read_bytes()
        for end in range(0, len(whole), max(1, len(whole) // 40)):
            (folder / name).write_bytes(whole[:end])
            with pytest.raises(GradwatchError):
                read(folder)
        (folder / name).write_bytes(whole)
    read(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for key, one in enumerate(value):
            yield from places(one, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data(), value=JSON)
def test_any_part_of_a_description_may_be_anything(tmp_path_factory, data, value):
    base = tmp_path_factory.getbasetemp() / "hostile" / "step-000003"
    if not base.exists():
        make(base)
        (base / "original").write_text((base / "capture.json").read_text())
    found = json.loads((base / "original").read_text())
    path = data.draw(st.sampled_from([path for path in places(found) if path]))
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (base / "capture.json").write_text(json.dumps(found))
    for function in (read, describe):
        with contextlib.suppress(GradwatchError):
            function(base)
