"""Listens to the forwards of one model: its own, or those of modules that the loop calls separately."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from gradwatch.capture import take_random_state, tensors_in
from gradwatch.recording.capture.edges import CannotReplace, follow_changes, put_edges
from gradwatch.recording.capture.passes import Held, HeldForward, HeldOutput, own_containers, version_of
from gradwatch.recording.capture.surroundings import Buffers, Flags, autocast_of, devices_of, is_plain
from gradwatch.recording.hooks.carried import CarriedHook

ArrivedAt = Callable[[HeldForward, int, Tensor], None]
Failed = Callable[[Exception], None]

COMPILED = "compiled "
MOST_LOOKS = 3
"""How often what `torch.compile` made is looked for among all objects, which takes a while."""

_WRAPPERS = ("DistributedDataParallel",)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what DistributedDataParallel and `torch.compile` put around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in _WRAPPERS:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class _Called:
    """A module that is called from outside, with what its forwards depend on."""

    def __init__(self, module: nn.Module, name: str) -> None:
        prefix = f"{name}." if name else ""
        inner = unwrapped(module)
        self.name = name
        self.buffers, self.flags = Buffers(inner, prefix), Flags(inner, prefix)
        self.devices = devices_of(inner)
        self.kinds = {device.type for device in self.devices} | {"cpu"}


class _OpenOutput:
    """An output that no backward has reached, as long as the loop has it: nothing is held longer than that.

    Attributes:
        origin: the node of autograd that made it, before it had an edge.
    """

    def __init__(self, edge: Tensor, forward: HeldForward, index: int, among: dict[int, _OpenOutput]) -> None:
        self.forward, self.index = forward, index
        self.origin: Any = edge.grad_fn.next_functions[0][0]  # type: ignore[union-attr]
        key = id(edge)

        def gone(reference: weakref.ref[Tensor]) -> None:
            if key in among and among[key].edge is reference:
                del among[key]

        self.edge = weakref.ref(edge, gone)

    @property
    def output(self) -> HeldOutput:
        return self.forward.outputs[self.index]


class ForwardTap:
    """Hooks on the modules of one model that may be called from outside.

    All modules are listened to until one is called while none that holds it is: what it holds is not listened to
    any more. Modules without parameters never are.

    Attributes:
        seen: forwards of which a differentiable output was seen.
        faults: why forwards could not be taken, in words.
    """

    def __init__(self, model: nn.Module, arrived: ArrivedAt, failed: Failed) -> None:
        self.seen = 0
        self.faults: set[str] = set()
        self._model = weakref.ref(model)
        self._arrived, self._failed = arrived, failed
        self._called: dict[int, _Called] = {}
        self._running: list[tuple[int, HeldForward | None]] = []
        self._thread = threading.get_ident()
        self._handles: dict[str, list[Any]] = {}
        self._listened: set[int] = set()
        self._looks = 0
        self._open: dict[int, _OpenOutput] = {}
        for name, module in _candidates(model):
            self._listen(module, name)

    def close(self) -> None:
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles = {}
        self._open.clear()

    def reset(self, thread: int) -> None:
        """No forward is running, and this thread trains; an interrupt leaves a forward without an end."""
        self._running.clear()
        self._open.clear()
        self._thread = thread

    def before_backward(self) -> None:
        """Hear the gradients of outputs that were changed in place since their forward."""
        for one in list(self._open.values()):
            output, changed = one.output, one.output.changed
            if changed is not None and follow_changes(changed, one.origin, self._arrival(one.forward, one.index)):
                output.version = version_of(changed)

    def reached(self, forwards: Iterable[HeldForward]) -> None:
        """A backward has reached these forwards."""
        known = {id(forward) for forward in forwards}
        for key in [key for key, one in self._open.items() if id(one.forward) in known]:
            del self._open[key]

    def _arrival(self, held: HeldForward, index: int) -> Callable[[Tensor], None]:
        arrived = self._arrived
        return lambda gradient: arrived(held, index, gradient)

    def look_for_compiled(self) -> None:
        """The model made gradients, and this forward of it was not seen: listen to what `torch.compile` made of it."""
        model = self._model()
        if self._looks == MOST_LOOKS or model is None:
            return
        self._looks += 1
        for name, module in compiled_around(unwrapped(model)).items():
            if id(module) not in self._listened:
                self._listen(module, name, key=COMPILED + name)

    # --------------------------------------------------------------------------------------- hooks

    def _listen(self, module: nn.Module, name: str, key: str | None = None) -> None:
        reference = weakref.ref(self)  # a module keeps its hooks, and may outlive the recording

        # PyTorch calls a hook that another one has just removed without the keyword arguments.
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            if kwargs is None or torch.compiler.is_compiling():
                return
            tap = reference()
            if tap is not None:
                tap._before(module, name, args, kwargs)

        def after(module: nn.Module, args: tuple[Any, ...], *kwargs_and_output: Any) -> Any:
            if torch.compiler.is_compiling():
                return None
            tap = reference()
            return None if tap is None else tap._after(module, kwargs_and_output[-1])

        self._listened.add(id(module))
        self._handles[name if key is None else key] = [
            module.register_forward_pre_hook(CarriedHook(before), with_kwargs=True),
            module.register_forward_hook(CarriedHook(after), with_kwargs=True, always_call=True),
        ]

    def _before(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        held = None
        if not self._running and torch.is_grad_enabled() and not _is_transformed():
            try:
                held = self._take(module, name, args, kwargs)
            except Exception as error:
                self._failed(error)
        self._running.append((id(module), held))

    def _after(self, module: nn.Module, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        while self._running:
            running, held = self._running.pop()
            if running == id(module):
                break  # those above it raised
        else:
            return None
        if held is None or output is None:
            return None
        try:
            return self._finish(module, held, output)
        except Exception as error:
            self._failed(error)
            return None

    # ------------------------------------------------------------------------------------- forwards

    def _take(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> HeldForward:
        called = self._called.get(id(module))
        if called is None:
            called = self._called[id(module)] = _Called(module, name)
            self._stop_within(name)
        return HeldForward(
            tap=self,
            module=name,
            args=own_containers(args),
            kwargs=own_containers(kwargs),
            inputs=[Held.of(tensor) for tensor in tensors_in([list(args), kwargs])],
            random_state=take_random_state(called.devices),
            buffers=called.buffers.take(),
            autocast=autocast_of(called.kinds),
            training=called.flags.take(),
        )

    def _finish(self, module: nn.Module, held: HeldForward, output: Any) -> Any:
        self._called[id(module)].buffers.end()
        arrived = self._arrived
        try:
            if not all(is_plain(tensor) for tensor in tensors_in(output)):
                raise CannotReplace("its output is a tensor of a class of its own")
            replaced, edges = put_edges(output, lambda index, gradient: arrived(held, index, gradient))
        except CannotReplace as error:
            self.faults.add(str(error))
            return None
        if not edges:
            return None
        self.seen += 1
        for index, edge in enumerate(edges):
            held.outputs.append(HeldOutput(weakref.ref(edge), version_of(edge)))
            self._open[id(edge)] = _OpenOutput(edge, held, index, self._open)
        return replaced

    def _stop_within(self, name: str) -> None:
        """What this module holds is called from within it."""
        for other in list(self._handles):
            is_compiled = other.startswith(COMPILED)  # around a module, not within one
            if other != name and not is_compiled and other.startswith(f"{name}." if name else ""):
                for handle in self._handles.pop(other):
                    handle.remove()


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that may be called from outside, with their names within the model without wrappers."""
    while type(model).__name__ in _WRAPPERS:
        model = cast("nn.Module", model.module)
    base = unwrapped(model)
    if model is not base:
        yield "", model  # compiled: what lies within is compiled with it
        return
    compiled = compiled_around(base)
    yield from compiled.items()
    for name, module in base.named_modules():
        is_within = any(name == one or name.startswith(f"{one}." if one else "") for one in compiled)
        if not is_within and any(True for _ in module.parameters()):
            yield name, module


def compiled_around(model: nn.Module) -> dict[str, nn.Module]:
    """What `torch.compile` made of the model or of its modules, by their names within it."""
    if "torch._dynamo" not in sys.modules:
        return {}
    names = {id(one): name for name, one in model.named_modules() if "_orig_mod" not in one._modules}
    found = {}
    for one in gc.get_objects():
        if issubclass(type(one), nn.Module) and "_orig_mod" in one.__dict__.get("_modules", ()):
            name = names.get(id(unwrapped(one)))
            if name is not None:
                found[name] = one
    return found


def _is_transformed() -> bool:
    """Whether functorch, a tracer or a graph of CUDA takes this forward apart."""
    is_traced = torch._C._get_tracing_state() is not None
    if is_traced or torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
