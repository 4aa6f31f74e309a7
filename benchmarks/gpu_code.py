"""Read the machine code of the CUDA kernels, for cards that are not here.

    python benchmarks/gpu_code.py > benchmarks/gpu_code.txt

Triton compiles for any architecture without a device, and its wheel brings NVIDIA's assembler and disassembler. The
first tables have, for each architecture and dtype: of the loop that reads whole aligned blocks, the width of its loads,
the bytes that a thread asks for in one iteration, its float64 instructions, and its instructions per entry; of the
kernel, registers, bytes spilled, and the share of the threads of a multiprocessor that these registers allow. The
kernel that reads updates has one loop for all addresses, since its runs begin anywhere; its figures are those of Adam,
for each entry of a parameter. The last table says what data sheets allow for a gradient of 1 G entries: the time by
memory bandwidth, and the time by instructions issued. The longer of the two binds.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradwatch.measure import fused_triton, updates_triton
from gradwatch.measure.sampling import RUN
from gradwatch.measure.updates_tables import ROW_WORDS

ARCHITECTURES = (75, 80, 86, 89, 90, 100)
DTYPES = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
REGISTERS, WARP = 65_536, 32
MOST_THREADS = {75: 1024, 80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048}
"""Threads that a multiprocessor holds (CUDA C++ Programming Guide, table of technical specifications)."""
ISSUED = {75: 64, 80: 64, 86: 128, 89: 128, 90: 128, 100: 128}
"""Float32 instructions that a multiprocessor does in a clock (same guide, table of arithmetic throughput)."""
FLOAT64 = re.compile(r"\bD(?:FMA|ADD|MUL|SETP|MNMX)\b|F2F\.F64")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Figures of a data sheet: bytes a second, multiprocessors, clocks a second."""

    name: str
    architecture: int
    bandwidth: float
    multiprocessors: int
    clock: float


CARDS = (
    Card(name="T4", architecture=75, bandwidth=320e9, multiprocessors=40, clock=1.59e9),
    Card(name="A100 80 GB", architecture=80, bandwidth=2039e9, multiprocessors=108, clock=1.41e9),
    Card(name="A10", architecture=86, bandwidth=600e9, multiprocessors=72, clock=1.70e9),
    Card(name="L4", architecture=89, bandwidth=300e9, multiprocessors=58, clock=2.04e9),
    Card(name="RTX 4090", architecture=89, bandwidth=1008e9, multiprocessors=128, clock=2.52e9),
    Card(name="H100 SXM", architecture=90, bandwidth=3350e9, multiprocessors=132, clock=1.83e9),
    Card(name="B200", architecture=100, bandwidth=8000e9, multiprocessors=148, clock=1.85e9),
)


@dataclass(frozen=True, kw_only=True)
class Code:
    """What the machine code of one kernel shows."""

    bytes_a_load: int
    """Of the loop over whole aligned blocks."""
    bytes_an_iteration: int
    """What a thread asks for in one iteration of that loop as the assembler repeats it."""
    float64_in_loop: int
    instructions_an_entry: float
    narrow_loops: int
    """Loops for addresses that are no multiple of 16."""
    registers: int
    spilled: int


def read_code(architecture: int, dtype: str) -> Code:
    """Compile `_read` for an architecture such as 90 and disassemble it."""
    return _chunks_code(fused_triton._read, {"sums": "*fp64"}, fused_triton.READ_TILES, architecture, dtype)


def scale_code(architecture: int, dtype: str) -> Code:
    """The same of `_scale`, which multiplies in place."""
    return _chunks_code(fused_triton._scale, {"factor": "*fp32"}, fused_triton.SCALE_TILES, architecture, dtype)


def _chunks_code(
    kernel: Any, own: dict[str, str], tiles: Mapping[int, Mapping[str, int]], architecture: int, dtype: str
) -> Code:
    signature = dict.fromkeys(("entries", "sizes", "tensor_of", "offset_of"), "*i64") | own
    tile = tiles[_bytes(dtype)]
    constants = {"DTYPE": DTYPES[dtype], "CHUNK": fused_triton.CHUNK, **tile}
    return _code_of(kernel, signature, constants, architecture, _bytes(dtype))


def updates_code(architecture: int, dtype: str, *, adam: bool = True, moments: str | None = None) -> Code:
    """The same of what reads the updates of Adam, or of SGD with momentum.

    Weights and gradients are of ``dtype``; the moments too, unless they have a dtype of their own.
    """
    signature = {"rows": "*i64", "numbers": "*fp64", "tensor_of": "*i64", "first_of": "*i64", "sums": "*fp64"}
    constants = {
        **dict.fromkeys(("WEIGHT", "GRADIENT"), DTYPES[dtype]),
        **dict.fromkeys(("MOMENT", "SQUARE"), DTYPES[moments or dtype]),
        "ADAM": adam,
        "WORDS": ROW_WORDS,
        "RUN": RUN,
        "CHUNK": updates_triton.CHUNK,
        "BLOCK": updates_triton.BLOCK,
    }
    item, item_of_moments = _bytes(dtype), _bytes(moments or dtype)
    bytes_an_entry = 2 * item + (3 if adam else 1) * item_of_moments
    return _code_of(updates_triton._read, signature, constants, architecture, bytes_an_entry)


def _code_of(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    architecture: int,
    bytes_an_entry: int,
) -> Code:
    source = ASTSource(
        fn=kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs={(at,): value for at, value in enumerate(constants.values(), len(signature))},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = triton.compile(
            source, target=GPUTarget("cuda", architecture, WARP), options={"num_warps": fused_triton.WARPS}
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        assembly = _tool("nvdisasm", "-c", str(file))
        usage = _tool("cuobjdump", "-res-usage", str(file))
    loops = _loops(assembly)
    wide = max(loops, key=lambda loop: (_widest(loop), len(loop)))
    in_iteration = sum(map(_width, wide))
    blocks = re.findall(r"(?ms)^\$(L__BB\w+):(.*?)(?=^\$L__BB\w+:|\Z)", compiled.asm["ptx"])
    ptx_loops = [block for label, block in blocks if "ld.global" in block and re.search(rf"bra\s+\${label};", block)]
    return Code(
        bytes_a_load=_widest(wide),
        bytes_an_iteration=in_iteration,
        float64_in_loop=sum(bool(FLOAT64.search(line)) for line in wide),
        instructions_an_entry=len(wide) * bytes_an_entry / in_iteration if in_iteration else float("nan"),
        narrow_loops=sum(not re.search(r"ld\.global\.v[24]", block) and ".f64" not in block for block in ptx_loops),
        registers=int(_found(r"REG:(\d+)", usage)),
        spilled=int(_found(r"LOCAL:(\d+)", usage)) + int(_found(r"STACK:(\d+)", usage)),
    )


def _bytes(dtype: str) -> int:
    return 4 if dtype == "fp32" else 2


def occupancy(architecture: int, registers: int) -> float:
    """Return the share of a multiprocessor's threads that the registers allow."""
    block = fused_triton.WARPS * WARP
    in_steps_of_8 = -(-registers // 8) * 8
    blocks = min(REGISTERS // (in_steps_of_8 * block), MOST_THREADS[architecture] // block)
    return blocks * block / MOST_THREADS[architecture]


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def _loops(assembly: str) -> list[list[str]]:
    """Return the instructions of each loop without branches within: from its label to the jump back to it."""
    found = []
    parts = re.split(r"(?m)^(\.L_x_\d+):", assembly)
    for label, stretch in zip(parts[1::2], parts[2::2], strict=True):
        if back := re.search(rf"BRA[^;\n]*`\({re.escape(label)}\) ?;", stretch):
            found.append(re.findall(r"/\*[0-9a-f]{4}\*/\s+(.*?);", stretch[: back.end()]))
    return found


def _widest(instructions: list[str]) -> int:
    return max(map(_width, instructions), default=0)


def _width(instruction: str) -> int:
    """The bytes that it loads from global memory."""
    found = re.search(r"LDG\.E(?:\.U?(\d+))?", instruction)
    return int(found[1] or 32) // 8 if found else 0


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


NARROW = """\
A thread loads one entry at a time, on purpose. The runs of 64 entries that are read of a long parameter begin at
addresses that are no multiple of 16. A parameter that is read whole could have wider loads in a loop of its own, but a
model that is read whole has 2**18 entries at most: 5 MiB in five float32 tensors, 1.6 us of an H100's bandwidth, where
a launch takes 5. Of any model 2**20 entries are read at most, at every eighth step or more rarely."""


def _print_table(title: str, codes: dict[tuple[int, str], Code]) -> None:
    print()
    print(title)
    print(
        "sm    dtype  bytes a load  an iteration  float64 in loop  instructions an entry  registers  spilled  occupancy"
    )
    for (arch, dtype), code in codes.items():
        loads = f"{code.bytes_a_load:>12} {code.bytes_an_iteration:>13}"
        loop = f"{loads} {code.float64_in_loop:>16} {code.instructions_an_entry:>22.1f}"
        kernel = f"{code.registers:>10} {code.spilled:>8} {occupancy(arch, code.registers):>10.0%}"
        print(f"{arch:<5} {dtype:<6} {loop} {kernel}")


def main() -> None:
    codes = {(arch, dtype): read_code(arch, dtype) for arch in ARCHITECTURES for dtype in DTYPES}
    print(f"Triton {triton.__version__}, {fused_triton.WARPS} warps")
    _print_table("The kernel that reads", codes)
    scaling = {(arch, dtype): scale_code(arch, dtype) for arch in ARCHITECTURES for dtype in DTYPES}
    _print_table("The kernel that multiplies in place", scaling)
    updating = {(arch, dtype): updates_code(arch, dtype) for arch in ARCHITECTURES for dtype in DTYPES}
    _print_table("The kernel that reads updates", updating)
    print(NARROW)
    mixed = {(arch, "bf16"): updates_code(arch, "bf16", moments="fp32") for arch in ARCHITECTURES}
    _print_table("The kernel that reads updates, of bf16 weights with fp32 moments", mixed)
    print()
    print("1 G entries   dtype  by bandwidth  by instructions  bound by")
    for card in CARDS:
        for dtype in DTYPES:
            by_bandwidth = 2**30 * _bytes(dtype) / card.bandwidth
            a_second = card.multiprocessors * ISSUED[card.architecture] * card.clock
            by_instructions = 2**30 * codes[card.architecture, dtype].instructions_an_entry / a_second
            bound = "memory" if by_instructions < by_bandwidth else "instructions"
            print(
                f"{card.name:<13} {dtype:<6} {by_bandwidth * 1e3:>9.2f} ms {by_instructions * 1e3:>13.2f} ms  {bound}"
            )


if __name__ == "__main__":
    main()
