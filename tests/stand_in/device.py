"""A second kind of device for tests, on any machine: builds `device.cpp` and tells PyTorch about it.

Its operators are those of the CPU and its copies are late, so that a copy which is read too early has wrong values.
A process can have one such device, and `torch.accelerator` is this one from then on: use it in a process of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gradwatch.measure import devices

NAME = "late"
SOURCE = Path(__file__).with_name("device.cpp")
_OPERATORS, _COPIES, _QUEUED, _CHANGED_EARLY, _PINNED = range(5)


def build(folder: Path) -> Path:
    """Compile the device, unless ``folder`` has it for this source and this PyTorch; return the library.

    Raises:
        RuntimeError: there is no compiler, or it fails; the message says which.
    """
    compiler = shutil.which("c++")
    if compiler is None:
        raise RuntimeError("there is no C++ compiler (c++)")
    home = Path(torch.__file__).parent
    version = hashlib.sha256(SOURCE.read_bytes() + f"{torch.__version__} {home}".encode()).hexdigest()[:16]
    library = folder / f"device-{version}.so"
    if library.exists():
        return library
    being_made = library.with_suffix(".new")
    includes = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10", "-ltorch", f"-Wl,-rpath,{home / 'lib'}"]
    command = [compiler, "-O0", "-std=c++20", "-fPIC", "-shared", "-w", *includes, str(SOURCE), "-o", str(being_made)]
    done = subprocess.run([*command, *libraries], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler} can't build {SOURCE.name}: {done.stderr[:2000]}")
    being_made.rename(library)
    return library


class Device:
    """The device, once it is loaded."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.stand_in_count.restype = ctypes.c_int64
        self._library.stand_in_waits.restype = ctypes.c_int64
        self._library.stand_in_operated.restype = ctypes.c_bool
        self._library.stand_in_begin()
        torch.utils.rename_privateuse1_backend(NAME)
        torch._register_device_module(NAME, _module())
        torch.utils.generate_methods_for_privateuse1_backend()

    @property
    def operators(self) -> int:
        """Operators so far."""
        return int(self._library.stand_in_count(_OPERATORS))

    @property
    def copies(self) -> int:
        """Copies so far between host and device."""
        return int(self._library.stand_in_count(_COPIES))

    @property
    def queued(self) -> int:
        """Copies that were begun and are not complete."""
        return int(self._library.stand_in_count(_QUEUED))

    @property
    def pinned(self) -> int:
        """Buffers of pinned memory that are in use."""
        return int(self._library.stand_in_count(_PINNED))

    def forget_changed_early(self) -> int:
        """Return how many copies to the device found their source changed since the last call."""
        return int(self._library.stand_in_count(_CHANGED_EARLY))

    def waits(self) -> list[tuple[int, str]]:
        """The waits for the device since the last call: the native id of the thread that waited, and for what."""
        length = 1 << 20
        text = ctypes.create_string_buffer(length)
        assert self._library.stand_in_waits(text, ctypes.c_int64(length)) <= length
        lines = text.value.decode().splitlines()
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def has_operated(self, thread: int) -> bool:
        """Whether the thread of this native id has asked for an operator since this was asked last."""
        return bool(self._library.stand_in_operated(ctypes.c_int64(thread)))

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Whatever makes this thread wait for the device raises, as under `torch.cuda.set_sync_debug_mode`."""
        self._library.stand_in_set_never_waits(ctypes.c_int64(threading.get_native_id()))
        try:
            yield
        finally:
            self._library.stand_in_set_never_waits(ctypes.c_int64(0))

    @contextmanager
    def narrow(self) -> Iterator[None]:
        """A tensor of float64 raises on the device meanwhile, as on Apple's MPS."""
        self._library.stand_in_set_narrow(True)
        devices.widest_float.cache_clear()
        try:
            yield
        finally:
            self._library.stand_in_set_narrow(False)
            devices.widest_float.cache_clear()

    def set_delay(self, seconds: float) -> None:
        """Complete each copy this long after it was begun."""
        self._library.stand_in_set(False, ctypes.c_int64(int(seconds * 1e6)))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Complete no copy meanwhile."""
        self._library.stand_in_set(True, ctypes.c_int64(2000))
        try:
            yield
        finally:
            self._library.stand_in_set(False, ctypes.c_int64(2000))


def _module() -> types.ModuleType:
    """The module that is to be ``torch.late``."""
    module = types.ModuleType(f"torch.{NAME}")
    about = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "current_device": torch.accelerator.current_device_index,
        "set_device": torch.accelerator.set_device_index,
        "synchronize": torch.accelerator.synchronize,
        "current_stream": torch.accelerator.current_stream,
        "Stream": torch.Stream,
        "Event": torch.Event,
        "manual_seed_all": lambda seed: None,
        "_is_in_bad_fork": lambda: False,
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
    }
    for name, value in about.items():
        setattr(module, name, value)
    return module
