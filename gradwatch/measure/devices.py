"""Which tensors are on an accelerator, and copies to the host that the training thread never waits for.

All code that depends on a tensor's device goes through this module. A test can therefore run the whole training
thread on tensors without values (the meta device) and show that it reads none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


class Ready(Protocol):
    """Something that says when a copy is complete, such as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until everything before it on its stream is done."""

    def query(self) -> bool:
        """Whether that is done; waits for nothing."""


def is_on_host(tensor: Tensor) -> bool:
    """Whether the values can be read without waiting for a device.

    >>> is_on_host(torch.ones(2)), is_on_host(torch.ones(2, device="meta"))
    (True, False)
    """
    return tensor.device.type == "cpu"


def has_values(tensor: Tensor) -> bool:
    """Whether there are values at all: tensors on the meta device have only a shape.

    >>> has_values(torch.ones(2)), has_values(torch.ones(2, device="meta"))
    (True, False)
    """
    return not tensor.is_meta


def first_accelerator(tensors: Sequence[Tensor]) -> torch.device:
    """Return the device of the first tensor that is not on the host; the host if all are.

    >>> first_accelerator([torch.ones(1), torch.ones(1, device="meta")])
    device(type='meta')
    """
    return next((tensor.device for tensor in tensors if not is_on_host(tensor)), torch.device("cpu"))


@lru_cache(maxsize=64)
def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64: Apple's MPS, and some of Intel's.

    >>> widest_float(torch.device("cpu"))
    torch.float64
    """
    if device.type in ("cpu", "cuda", "meta"):
        return torch.float64
    try:
        torch.zeros(1, dtype=torch.float64, device=device).add_(1)
    except (RuntimeError, TypeError):
        return torch.float32
    return torch.float64


def is_capturing_graph() -> bool:
    """Whether the current stream records a CUDA graph.

    Nothing can be waited for then, pinned memory can't be taken from the system, and whatever is launched becomes part
    of the graph.

    >>> is_capturing_graph()
    False
    """
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


_streams: dict[torch.device, int] = {}


def stream_of(device: torch.device) -> int:
    """Return the number of the stream on which operators of a CUDA device are launched now; 0 elsewhere.

    While a CUDA graph is recorded: that of the last call before, which made what the graph needs and can't make itself.

    >>> stream_of(torch.device("cpu"))
    0
    """
    if device.type != "cuda":
        return 0
    if not is_capturing_graph():
        _streams[device] = int(torch.cuda.current_stream(device).cuda_stream)
    return _streams.get(device, 0)


def begin_copy(values: Tensor) -> Tensor:
    """Begin to copy to the host and return the copy, which is complete once an event of `mark_copies` says so.

    The copy is in pinned memory, which PyTorch's caching allocator takes from a pool and gives to no one else
    before the copy is complete. A device without pinned memory or events keeps its values; whoever collects
    them later waits then.
    """
    return _copy_behind(values.detach()) if copies_behind(values.device) else values.detach()


def begin_marked_copy(values: Tensor) -> tuple[Tensor, Ready | None]:
    """The same, and the event of this copy; None where the device keeps its values."""
    device, own = values.device, values.detach()
    return (_copy_behind(own), _mark(device)) if copies_behind(device) else (own, None)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a copy on the device of values on the host, begun without waiting; on the host the values themselves.

    From pinned memory: a copy from other memory may wait for what was launched before.

    >>> to_device(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    return (_pinned(values) if copies_behind(device) else values).to(device, non_blocking=True)


def places(positions: Sequence[int], device: torch.device) -> Tensor:
    """Return positions as an index on a device. An index by a list is copied there with a wait.

    >>> torch.arange(10, 20)[places([0, 3], torch.device("cpu"))]
    tensor([10, 13])
    """
    return to_device(torch.tensor(positions, dtype=torch.int64), device)


def move(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device, whose next operator may read them.

    A copy from a device to the host waits, since the host reads at once: without a wait, PyTorch returns memory that
    the copy has yet to fill. Nothing else waits. A model that lies on devices alone has no such copy.

    >>> move(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    if values.device == device:
        return values
    if is_on_host(values):
        return to_device(values, device)
    return values.to(device, non_blocking=device.type != "cpu")


def join(vectors: Sequence[Tensor]) -> Tensor:
    """Return vectors one behind the other, without waiting: on the first of their devices that is not the host.

    >>> join([torch.ones(1), torch.zeros(2)])
    tensor([1., 0., 0.], dtype=torch.float64)
    """
    device = first_accelerator(vectors)
    dtype = widest_float(device)
    return torch.cat([move(vector.to(dtype), device) for vector in vectors])


def mark_copies(devices: Iterable[torch.device]) -> tuple[Ready, ...]:
    """Return one event for each device, behind the copies that were begun there."""
    distinct = set(devices)
    ordered = sorted(distinct, key=str) if len(distinct) > 1 else distinct  # one, as usual, needs no name
    return tuple(_mark(device) for device in ordered if copies_behind(device))


def copies_behind(device: torch.device) -> bool:
    """Whether a copy from this device can be begun now and waited for later.

    PyTorch offers pinned memory and events for one kind of accelerator at a time, `torch.accelerator`.
    Apple's MPS shares its memory with the host and has no use for pinned memory.
    """
    if device.type in ("cpu", "meta", "mps"):
        return False
    if device.type == "cuda":
        return True
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == device.type


def _copy_behind(values: Tensor) -> Tensor:
    host = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _pinned(values: Tensor) -> Tensor:
    return values.pin_memory()


def _mark(device: torch.device) -> Ready:
    if device.type == "cuda":
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event
    other = torch.Event(device)
    other.record(torch.accelerator.current_stream(device))
    return other
