"""Captures written and read back: equal, with the same layout, and without pickle."""

import dataclasses
import json
import math
import random
from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from gradwatch.capture import (
    Autocast,
    Capture,
    Forward,
    Group,
    MappingStandIn,
    Shard,
    Structure,
    Unkept,
    classes_in,
    read,
    set_random_state,
    take_random_state,
    tensors_in,
    write,
)

Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    kind: str = "plain"


@dataclasses.dataclass(frozen=True)
class Refusing:
    x: int

    def __post_init__(self):
        raise RuntimeError("made anew")


class Encoding(UserDict):
    pass


def capture_of(*args, **changes):
    forward = Forward(args=args, kwargs={}, random_state=take_random_state())
    return Capture(
        run="runs/x", step=3, optimizer="0", why="nonfinite", groups=(Group(forwards=(forward,)),), **changes
    )


def there_and_back(value, tmp_path, **options):
    write(capture_of(value), tmp_path / "step-000003")
    capture = read(tmp_path / "step-000003", **options)
    return capture.groups[0].forwards[0].args[0], capture


def same_tensor(one, other):
    assert (one.dtype, one.shape, one.layout) == (other.dtype, other.shape, other.layout)
    assert one.requires_grad == other.requires_grad
    if one.layout == torch.strided:
        assert one.stride() == other.stride()
        return torch.equal(
            one.detach().view(-1).view(torch.uint8) if one.is_contiguous() else one.nan_to_num(),
            other.detach().view(-1).view(torch.uint8) if one.is_contiguous() else other.nan_to_num(),
        )
    return torch.equal(one.to_dense(), other.to_dense())


TYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (2, 0, 3), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_tensor_of_any_type_comes_back_bit_by_bit(dtype, shape, tmp_path):
    count = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    back, capture = there_and_back(tensor, tmp_path)
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert bytes(back.contiguous().reshape(-1).view(torch.uint8).tolist()) == bytes(raw.tolist())
    assert capture.replayable


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(3, 4).t(),
        torch.randn(2, 3, 4).permute(2, 0, 1),
        torch.randn(3, requires_grad=True),
        torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    ],
    ids=["channels last", "transposed", "permuted", "wants a gradient", "not finite"],
)
def test_the_layout_and_the_wish_for_a_gradient_come_back(tensor, tmp_path):
    back, _ = there_and_back(tensor, tmp_path)
    assert same_tensor(tensor, back)


def test_views_with_gaps_and_expanded_ones_come_back_by_value(tmp_path):
    base = torch.randn(6, 8)
    views = [base[:, ::2], base[1], base[:1].expand(4, 8), torch.randn(3, dtype=torch.cfloat).conj()]
    back, _ = there_and_back(views, tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(views, back, strict=True))


@pytest.mark.parametrize("layout", ["coo", "uncoalesced", "hybrid", "csr", "csc", "bsr", "bsc", "empty"])
def test_a_sparse_tensor_comes_back(layout, tmp_path):
    dense = torch.eye(4)
    tensor = {
        "coo": lambda: dense.to_sparse(),
        "uncoalesced": lambda: torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (4,)),
        "hybrid": lambda: torch.sparse_coo_tensor([[0, 2]], torch.randn(2, 3), (4, 3)),
        "csr": lambda: dense.to_sparse_csr(),
        "csc": lambda: dense.to_sparse_csc(),
        "bsr": lambda: dense.to_sparse_bsr((2, 2)),
        "bsc": lambda: dense.to_sparse_bsc((2, 2)),
        "empty": lambda: torch.zeros(3, 2).to_sparse(),
    }[layout]()
    back, _ = there_and_back(tensor, tmp_path)
    assert same_tensor(tensor, back)
    if tensor.layout == torch.sparse_coo:
        assert back.is_coalesced() == tensor.is_coalesced()


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -7, 2**70, 1.5, math.inf, -math.inf, "text", "", "ü☃", b"\x00\xff", 1 + 2j, complex(0, math.inf),
        slice(1, None, 2), Ellipsis, range(3, 9, 2), torch.float32, torch.device("cuda:1"), torch.Size([2, 3]),
        [], (), {}, [1, [2, (3, {"a": [None]})]], {1: "int", (1, 2): "tuple", None: "none"}, {1, 2}, frozenset({3, 4}),
        np.float32(1.5), np.int64(3),
    ],
    ids=repr,
)  # fmt: skip
def test_a_plain_value_comes_back(value, tmp_path):
    back, capture = there_and_back(value, tmp_path)
    assert back == value
    assert type(back) is type(value)
    assert capture.replayable
    assert capture.not_kept == ()


def test_nan_comes_back(tmp_path):
    assert math.isnan(there_and_back(math.nan, tmp_path)[0])


def test_an_array_of_numpy_comes_back(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    back, _ = there_and_back(array, tmp_path)
    assert isinstance(back, np.ndarray)
    assert np.array_equal(back, array)


def test_a_packed_sequence_comes_back(tmp_path):
    packed = pack_sequence([torch.randn(2, 3), torch.randn(4, 3)], enforce_sorted=False)
    back, _ = there_and_back(packed, tmp_path)
    assert type(back) is PackedSequence
    assert all(torch.equal(one, other) for one, other in zip(packed, back, strict=True))


def test_a_tensor_given_twice_is_written_once_and_stays_one(tmp_path):
    tensor = torch.randn(3)
    back, _ = there_and_back([tensor, {"again": tensor}], tmp_path)
    assert back[0] is back[1]["again"]


def test_two_views_of_one_storage_come_back(tmp_path):
    base = torch.randn(4)
    back, _ = there_and_back([base, base[:2], base[2:]], tmp_path)
    assert [one.tolist() for one in back] == [base.tolist(), base[:2].tolist(), base[2:].tolist()]


def test_stand_ins_take_the_place_of_classes(tmp_path):
    value = [Pair(1, torch.ones(2)), Batch(torch.ones(1)), OrderedDict(a=1), Encoding({"input_ids": torch.ones(3)})]
    (pair, batch, ordered, encoding), capture = there_and_back(value, tmp_path)
    assert (pair.left, pair.right.tolist(), pair[0], pair._fields) == (1, [1, 1], 1, ("left", "right"))
    assert isinstance(batch, Structure)
    assert (batch.x.tolist(), batch.kind, batch.class_name.rpartition(".")[2]) == ([1], "plain", "Batch")
    assert isinstance(ordered, MappingStandIn)
    assert ordered["a"] == 1
    assert encoding.input_ids.tolist() == encoding["input_ids"].tolist() == [1, 1, 1]
    assert capture.replayable
    with pytest.raises(AttributeError, match="has no field 'y'"):
        _ = batch.y


def test_classes_of_another_batch_are_made_again(tmp_path):
    def make(x):
        return [Pair(1, x), Batch(x), OrderedDict(a=x), Encoding({"input_ids": x})]

    classes = classes_in(make(torch.zeros(5)))
    back, _ = there_and_back(make(torch.ones(2)), tmp_path, classes=classes)
    assert [type(one) for one in back] == [Pair, Batch, OrderedDict, Encoding]
    assert [one.tolist() for one in tensors_in(back)] == [[1, 1]] * 4


def test_no_init_of_a_dataclass_runs(tmp_path):
    value = object.__new__(Refusing)
    object.__setattr__(value, "x", 3)
    back, _ = there_and_back(value, tmp_path, classes=classes_in(value))
    assert (type(back), back.x) == (Refusing, 3)


def test_a_stand_in_is_written_again(tmp_path):
    first, _ = there_and_back([Batch(torch.ones(1)), Encoding(a=1)], tmp_path / "first")
    second, _ = there_and_back(first, tmp_path / "second")
    assert second[0].class_name == first[0].class_name
    assert second[1].class_name == first[1].class_name


class Strange:
    def __repr__(self):
        raise ValueError("no")


@pytest.mark.parametrize("value", [object(), Strange(), len, torch.nn.Linear(1, 1), torch.Generator(), 2**5000])
def test_an_object_that_would_need_pickle_is_named_and_the_capture_is_not_replayable(value, tmp_path):
    back, capture = there_and_back({"x": value}, tmp_path)
    assert isinstance(back["x"], Unkept)
    assert not capture.replayable
    assert capture.not_kept[0].startswith(f"a {back['x'].type}: ")
    assert "gradwatch" not in back["x"].text


def test_a_list_that_holds_itself_is_refused_and_named(tmp_path):
    value = []
    value.append(value)
    _, capture = there_and_back(value, tmp_path)
    assert not capture.replayable
    assert "nested deeper" in capture.not_kept[0]


def test_a_meta_tensor_is_named(tmp_path):
    _, capture = there_and_back(torch.empty(3, device="meta"), tmp_path)
    assert not capture.replayable


def test_every_field_comes_back(tmp_path):
    random.seed(3)
    random.gauss(0, 1)
    np.random.seed(4)
    state = take_random_state()
    forward = Forward(
        args=(torch.ones(2),),
        kwargs={"mask": None, "labels": torch.tensor([1])},
        devices=("cpu", "cuda:0"),
        random_state=state,
        buffers={"bn.running_mean": torch.randn(3)},
        autocast={"cpu": Autocast(enabled=True, dtype="bfloat16", cache_enabled=True)},
        training={"": True, "bn": False},
        grad_enabled=True,
        output_gradients=(None, torch.randn(2)),
    )
    capture = Capture(
        run="runs/x",
        step=137,
        optimizer="generator",
        why="spike",
        groups=(Group(forwards=(forward, forward)), Group(forwards=(forward,))),
        weights={"w": torch.randn(2, 2)},
        gradients={"w": torch.tensor([[math.nan, 1.0], [2.0, math.inf]])},
        frozen=("b",),
        model="GPT",
        root="model",
        versions={"torch": "2.13"},
        devices=("cpu",),
        settings={"threads": 2, "deterministic": False},
        total_norm=math.nan,
        limit=3.5,
        max_norm=1.0,
        loss_scale=65536.0,
        rank=1,
        ranks=2,
        parts=(1,),
        reduction="mean",
        shards={"w": Shard(shape=(4, 2), offset=(2, 0))},
        is_compiled=True,
        kept={"weights": True},
        not_kept=("the optimizer's state",),
        replayable=True,
        wall_time=5.5,
    )
    folder = write(capture, tmp_path / "step-000137")
    back = read(folder)
    assert back.folder == folder
    for field in dataclasses.fields(Capture):
        if field.name not in {"folder", "groups", "weights", "gradients", "total_norm"}:
            assert getattr(back, field.name) == getattr(capture, field.name), field.name
    assert math.isnan(back.total_norm)
    assert torch.equal(back.weights["w"], capture.weights["w"])
    assert torch.equal(back.gradients["w"].nan_to_num(), capture.gradients["w"].nan_to_num())
    assert [len(group.forwards) for group in back.groups] == [2, 1]
    read_forward = back.groups[0].forwards[0]
    for field in ("autocast", "training", "grad_enabled", "devices"):
        assert getattr(read_forward, field) == getattr(forward, field)
    assert torch.equal(read_forward.kwargs["labels"], torch.tensor([1]))
    assert read_forward.kwargs["mask"] is None
    assert read_forward.output_gradients[0] is None
    assert torch.equal(read_forward.output_gradients[1], forward.output_gradients[1])
    assert torch.equal(read_forward.buffers["bn.running_mean"], forward.buffers["bn.running_mean"])
    drawn = []
    for one in (state, read_forward.random_state):
        set_random_state(one)
        drawn.append((random.gauss(0, 1), random.random(), np.random.rand(), torch.rand(2).tolist()))
    assert drawn[0] == drawn[1]


def test_nothing_is_pickled(tmp_path):
    folder = write(capture_of(torch.ones(2), {"x": object()}), tmp_path / "step-000003")
    assert sorted(one.name for one in folder.iterdir()) == [
        "capture.json",
        "forwards.safetensors",
        "gradients.safetensors",
        "weights.safetensors",
    ]
    json.loads((folder / "capture.json").read_text(), parse_constant=pytest.fail)


def test_a_folder_that_exists_is_left_alone(tmp_path):
    folder = write(capture_of(1), tmp_path / "step-000003")
    before = (folder / "capture.json").read_bytes()
    with pytest.raises(FileExistsError):
        write(capture_of(2), folder)
    assert (folder / "capture.json").read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    class Full(dict):
        def items(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write(capture_of(1, settings=Full(a=1)), tmp_path / "step-000003")
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_not_changed_by_writing(tmp_path):
    tensor = torch.randn(3, requires_grad=True) * 2
    before, version = tensor.detach().clone(), tensor._version
    write(capture_of(tensor), tmp_path / "step-000003")
    assert torch.equal(tensor, before)
    assert tensor._version == version
    assert tensor.grad_fn is not None
