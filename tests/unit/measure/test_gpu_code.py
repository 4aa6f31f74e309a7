"""The machine code of the CUDA kernel, compiled here for cards that are not here."""

import pytest

from ...scripts import load

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(scope="module")
def gpu_code():
    return load("gpu_code")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("architecture", [75, 90])
def test_whole_blocks_are_read_by_wide_loads_without_float64_and_spills(gpu_code, architecture, dtype):
    code = gpu_code.read_code(architecture, dtype)
    assert code.bytes_a_load == 16
    assert code.bytes_an_iteration >= 32
    assert code.float64_in_loop == 0
    assert code.spilled == 0
    assert gpu_code.occupancy(architecture, code.registers) >= 0.6


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_are_multiplied_by_wide_loads_without_float64_and_spills(gpu_code, dtype):
    code = gpu_code.scale_code(90, dtype)
    assert (code.bytes_a_load, code.float64_in_loop, code.spilled, code.narrow_loops) == (16, 0, 0, 1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_address_that_is_no_multiple_of_16_has_a_loop_of_its_own(gpu_code, dtype):
    """A 16-byte load from such an address ends the process of a training."""
    assert gpu_code.read_code(90, dtype).narrow_loops == 1


@pytest.mark.parametrize(
    ("architecture", "dtype", "adam"), [(75, "fp32", True), (90, "bf16", True), (90, "fp32", False)]
)
def test_updates_are_read_without_float64_and_spills(gpu_code, architecture, dtype, adam):
    code = gpu_code.updates_code(architecture, dtype, adam=adam)
    assert (code.bytes_a_load, code.float64_in_loop, code.spilled) == (4 if dtype == "fp32" else 2, 0, 0)
    assert gpu_code.occupancy(architecture, code.registers) >= 0.25


def test_moments_of_a_dtype_of_their_own_are_read_without_float64_and_spills(gpu_code):
    code = gpu_code.updates_code(90, "bf16", moments="fp32")
    assert (code.bytes_a_load, code.float64_in_loop, code.spilled) == (4, 0, 0)
    assert code.bytes_an_iteration == 4 * (2 * 2 + 3 * 4)  # four entries a thread
    assert gpu_code.occupancy(90, code.registers) >= 0.25


def test_a_loop_ends_where_it_jumps_back(gpu_code):
    lines = [".L_x_1:", *(f"        /*00{at}0*/                   {what} ;" for at, what in enumerate(
        ("LDG.E R2, [R4]", "FFMA R2, R2, R2, R3", "@P0 BRA `(.L_x_1)", "DADD R2, R2, R4")
    )), ".L_x_2:", "        /*0050*/                   EXIT ;", ".L_x_10:"]  # fmt: skip
    (loop,) = gpu_code._loops("\n".join(lines))
    assert loop == ["LDG.E R2, [R4] ", "FFMA R2, R2, R2, R3 ", "@P0 BRA `(.L_x_1) "]
    assert gpu_code._widest(loop) == 4
    assert gpu_code._widest(["LDG.E.U16.CONSTANT R2, [R4]", "LDG.E.64 R2, [R4]"]) == 8


def test_float64_is_found_where_it_is(gpu_code):
    assert gpu_code.FLOAT64.search("DFMA R2, R4, R4, R2")
    assert gpu_code.FLOAT64.search("F2F.F64.F32 R2, R4")
    assert not gpu_code.FLOAT64.search("FFMA R2, R4, R4, R2")


@pytest.mark.parametrize(("registers", "share"), [(32, 1.0), (64, 0.5), (65, 0.4375), (255, 0.125)])
def test_occupancy_is_that_of_nvidias_calculator(gpu_code, registers, share):
    assert gpu_code.occupancy(90, registers) == share
