"""The statistics of gradients on a CUDA device, against float64 numpy."""

import math

import numpy as np
import pytest
import torch

from gradwatch.measure import count_above, measure, measure_magnitudes, measure_updates, norms, scale_in_one_launch

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZES = (0, 1, 7, 1023, 1024, 1025, 16_383, 16_384, 16_385, 70_001, 3_000_001)


def oracle(tensor):
    values = tensor.detach().cpu().double().numpy().ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        magnitude = np.abs(values)
        largest = float(magnitude.max(initial=0.0))
        return {
            "norm": float(np.sqrt(np.square(values).sum())),
            "abs_max": math.nan if np.isnan(values).any() else largest,
            "nonfinite": float((~np.isfinite(values)).sum()),
            "zeros": float((values == 0).sum()),
        }


def agrees(tensors, rtol=1e-6):
    found = measure(tensors).collect()
    for stat, column in found.items():
        expected = [math.nan if t is None else oracle(t)[stat] for t in tensors]
        np.testing.assert_allclose(column, expected, rtol=rtol, err_msg=stat)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_and_dtype(dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(size, device="cuda").to(dtype) for size in SIZES]
    tensors[5][3], tensors[9][5] = math.nan, 0.0
    tensors[8][-1] = -math.inf
    before = [t.clone() for t in tensors]
    agrees([None, *tensors])
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e4, 1e30])
def test_squares_that_float32_can_not_hold(dtype, scale):
    torch.manual_seed(0)
    tensors = [(torch.randn(size, device="cuda") * scale).to(dtype) for size in (1, 1025, 70_001)]
    agrees(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_single_subnormal_entry(dtype):
    tensor = torch.zeros(2049, device="cuda", dtype=dtype)
    tensor[2048] = torch.finfo(dtype).smallest_normal / 4
    agrees([tensor])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", range(1, 9))
def test_addresses_that_are_no_multiple_of_sixteen(dtype, shift):
    torch.manual_seed(shift)
    agrees([torch.randn(size + shift, device="cuda").to(dtype)[shift:] for size in (1, 100, 1024, 40_003)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_multiplied_in_place_and_left_alone_by_one(dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(size + 3, device="cuda").to(dtype)[at % 4 :] for at, size in enumerate(SIZES)]
    strided = torch.randn(8, 8, device="cuda").to(dtype)[:, ::2]
    tensors.append(torch.randn(64, 48, device="cuda").to(dtype).T)
    before = [tensor.clone() for tensor in tensors]
    one = torch.ones((), dtype=torch.float64, device="cuda")
    assert scale_in_one_launch([*tensors, strided], one)[0] is strided
    assert all(map(torch.equal, tensors, before))
    scale_in_one_launch(tensors, one * 0.3)
    expected = [(tensor.float() * torch.tensor(0.3, device="cuda")).to(dtype) for tensor in before]
    assert all(map(torch.equal, tensors, expected))


def test_layouts_of_every_kind():
    torch.manual_seed(0)
    dense = torch.randn(64, 48, device="cuda")
    tensors = [
        dense.T,
        dense[::2],
        dense[:, 1:],
        torch.ones(1, 5, device="cuda").expand(4, 5),
        torch.randn(3, 4, 5, 6, device="cuda").to(memory_format=torch.channels_last),
        torch.tensor(-2.0, device="cuda"),
    ]
    agrees(tensors)
    values = torch.tensor([3.0, 4.0], device="cuda")
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 5]], device="cuda"), values, (9,))
    assert norms([sparse]).collect()["norm"].tolist() == [5.0]
    assert norms([torch.tensor([3 + 4j], device="cuda")]).collect()["norm"].tolist() == [5.0]


def test_ten_thousand_tensors_of_three_dtypes():
    torch.manual_seed(0)
    tensors = [torch.randn(1 + i % 700, device="cuda").to(DTYPES[i % 3]) for i in range(10_000)]
    agrees(tensors)
    agrees([t.clone() for t in tensors])  # the same plan, other addresses


def test_tensors_of_the_host_and_of_the_device_together():
    torch.manual_seed(0)
    agrees([torch.randn(100), torch.randn(2000, device="cuda"), None, torch.randn(3000)])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second CUDA device")
def test_gradients_of_another_device_than_the_current_one():
    torch.manual_seed(0)
    assert torch.cuda.current_device() == 0
    agrees([torch.randn(70_001, device="cuda:1"), torch.randn(2000, device="cuda:0"), torch.randn(5, device="cuda:1")])


def test_the_same_numbers_every_time():
    torch.manual_seed(0)
    tensors = [torch.randn(n, device="cuda") for n in (17, 16_385, 1_000_003)]
    first = measure(tensors).collect()["norm"].tolist()
    assert all(measure(tensors).collect()["norm"].tolist() == first for _ in range(20))


def test_measured_on_a_stream_of_its_own():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        gradient = torch.full((1000,), 2.0, device="cuda")
        found = measure([gradient])
    assert found.collect()["abs_max"].tolist() == [2.0]
    assert found.collect()["norm"][0] == pytest.approx(2 * 1000**0.5)


def test_a_measurement_within_a_graph_follows_the_values():
    gradients = [torch.ones(2000, device="cuda"), torch.ones(30, device="cuda", dtype=torch.bfloat16)]
    measure(gradients).collect()  # the plan and the kernels are made outside
    from gradwatch.measure.fused_triton import measure_triton

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        table = measure_triton(gradients)
    gradients[0].fill_(3.0)
    graph.replay()
    torch.cuda.synchronize()
    np.testing.assert_allclose(table[:, 0].cpu().numpy(), [3 * 2000**0.5, 30**0.5], rtol=1e-12)


def test_entries_over_a_limit_are_counted():
    gradients = [torch.tensor([1.0, -3.0, 2.0], device="cuda"), torch.tensor([-2.0])]
    assert sorted(int(count) for count in count_above(gradients, 1.5)) == [1, 2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_histograms_of_entries_are_those_of_the_host(no_waits, dtype, scale):
    torch.manual_seed(0)
    host = [(torch.randn(size) * 2.0 ** (at - 5)).to(dtype) for at, size in enumerate((1, 7, 70_001, 300_000))]
    host[2][:3] = torch.tensor([math.nan, -math.inf, 0.0])
    gradients = [tensor.pin_memory().cuda(non_blocking=True) for tensor in host]
    factor = None if scale is None else torch.full((), scale, device="cuda")
    found = measure_magnitudes([None, *gradients], factor)
    expected = measure_magnitudes([None, *host], None if scale is None else torch.tensor(scale))
    torch.cuda.set_sync_debug_mode("default")
    for (name, mine), theirs in zip(found.collect().items(), expected.collect().values(), strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"amsgrad": True}, {"capturable": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_in_closed_form(options, dtype):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(n, device="cuda").to(dtype)) for n in (500, 4000)]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1, **options)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        before = [weight.detach().double().clone() for weight in weights]
        optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    moved = [(w.detach().double() - old).norm().item() for w, old in zip(weights, before, strict=True)]
    rtol = 1e-4 if dtype == torch.float32 else 0.1  # what was meant; bfloat16 rounds what arrives
    np.testing.assert_allclose(found["update_norm"], moved, rtol=rtol)
    np.testing.assert_allclose(found["weight_norm"], [old.norm().item() for old in before], rtol=rtol / 10)


def on_the_host(optimizer, weights):
    """The same weights, gradients and state on the host, which the compiled pass reads."""
    twins = []
    for weight in weights:
        twin = torch.nn.Parameter(weight.detach().cpu())
        twin.grad = weight.grad.cpu()
        twins.append(twin)
    options = {name: optimizer.defaults[name] for name in ("weight_decay", "maximize")}
    other = type(optimizer)(twins, lr=float(optimizer.param_groups[0]["lr"]), **options)
    for weight, twin in zip(weights, twins, strict=True):
        state = optimizer.state[weight]
        other.state[twin] = {name: value.cpu() if torch.is_tensor(value) else value for name, value in state.items()}
    for group, theirs in zip(other.param_groups, optimizer.param_groups, strict=True):
        group |= {name: value for name, value in theirs.items() if name not in ("params", "lr")}
    return other, twins


@pytest.fixture
def launched(monkeypatch):
    """How many parameters each launch of the kernel has read."""
    from gradwatch.measure import updates_triton

    found, read = [], updates_triton.read_updates

    def counted(table, like, dtypes, *, is_adam):
        found.append(len(table))
        return read(table, like, dtypes, is_adam=is_adam)

    monkeypatch.setattr(updates_triton, "read_updates", counted)
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
        (torch.optim.Adam, {"weight_decay": 0.1, "foreach": True, "amsgrad": True}),
        (torch.optim.Adam, {"capturable": True, "maximize": True}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("remote_rate", [False, True])
def test_updates_are_those_that_the_compiled_pass_reads(no_waits, launched, kind, options, dtype, remote_rate):
    torch.cuda.set_sync_debug_mode("default")
    torch.manual_seed(0)
    shapes = [(), (63,), (65,), (2049,), (300, 200), (1024, 1024), (4, 3, 5, 6)]
    weights = [torch.nn.Parameter(torch.randn(shape, device="cuda").to(dtype)) for shape in shapes]
    base = torch.randn(5001, device="cuda").to(dtype)
    weights.append(torch.nn.Parameter(base[1:]))  # at an address that is no multiple of 16
    needs_number = kind is torch.optim.SGD or not (options.get("fused") or options.get("capturable"))
    rate = torch.tensor(0.05, device="cuda") if remote_rate and not needs_number else 0.05
    optimizer = kind(weights, lr=rate, **options)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    measure_updates(optimizer, weights)  # compiles
    torch.cuda.synchronize()
    launched.clear()
    torch.cuda.set_sync_debug_mode("error")
    found = [measure_updates(optimizer, [None, *weights], most) for most in (None, 4096)]
    torch.cuda.set_sync_debug_mode("default")
    assert launched == [len(weights)] * 2
    other, twins = on_the_host(optimizer, weights)
    for one, most in zip(found, (None, 4096), strict=True):
        expected = measure_updates(other, [None, *twins], most).collect()
        for stat, values in one.collect().items():
            np.testing.assert_allclose(values, expected[stat], rtol=1e-5, err_msg=stat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_of_another_dtype_than_the_weights(launched, dtype):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, device="cuda").to(dtype)) for shape in [(63,), (300, 200)]]
    optimizer = torch.optim.AdamW(weights, lr=0.05)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
        moment, square = torch.randn(weight.shape, device="cuda"), torch.rand(weight.shape, device="cuda")
        optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": moment, "exp_avg_sq": square}
    found = measure_updates(optimizer, weights).collect()
    assert launched == [2]
    other, twins = on_the_host(optimizer, weights)
    for stat, values in measure_updates(other, twins).collect().items():
        np.testing.assert_allclose(found[stat], values, rtol=1e-5, err_msg=stat)


@pytest.mark.parametrize("spoil", [math.nan, math.inf, 1e19, 3e38])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e25])
def test_updates_that_float32_can_not_hold(launched, spoil, scale):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3000, device="cuda")) for _ in range(2)]
    optimizer = torch.optim.Adam(weights, lr=0.05, fused=True)
    for weight in weights:
        weight.grad = scale * torch.randn_like(weight)
    weights[0].grad[2999] = spoil
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    assert launched == [2]
    other, twins = on_the_host(optimizer, weights)
    for stat, values in measure_updates(other, twins).collect().items():
        np.testing.assert_allclose(found[stat], values, rtol=1e-5, err_msg=stat)
