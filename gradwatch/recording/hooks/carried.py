"""Hooks that objects of the script carry: a model that is saved whole, an optimizer that is copied with all it has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any


class CarriedHook:
    """A hook of ours on an object of the script. A copy of that object has a hook that does nothing instead.

    A plain function could not be pickled, and the copy of a model would be taken for the model itself.

    >>> import copy, pickle
    >>> hook = CarriedHook(lambda number: print("called with", number))
    >>> hook(1)
    called with 1
    >>> copy.deepcopy(hook)(2), pickle.loads(pickle.dumps(hook))(3)
    (None, None)
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A function of the standard library that takes anything: who loads the copy needs nothing of ours."""
        return getattr, (contextlib.nullcontext(), "__exit__")
