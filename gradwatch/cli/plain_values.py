"""Values of the command line that need no conversion: none, a default, text, and the paths of what can be read.

Typer passes each value through pydantic, also one that was not given, and pydantic's import takes a good tenth of the
time of `gradwatch report`. It still converts all other values and checks them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

_TO_CONVERT = object()


def take_as_they_are(parameters: Iterable[Any]) -> None:
    """Let parameters take such values without typer's conversion."""
    for parameter in parameters:
        if hasattr(parameter, "type_descriptor"):  # an older typer converts without pydantic
            parameter.process_value = partial(_process, parameter, parameter.process_value)


def _process(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """The value as the command gets it; ``convert`` is typer's way to it."""
    taken = _as_it_is(parameter, value)
    if taken is _TO_CONVERT:
        return convert(context, value)
    return taken if parameter.callback is None else parameter.callback(context, parameter, taken)


def _as_it_is(parameter: Any, value: Any) -> Any:
    wanted = parameter.type_descriptor.annotation
    if value is None and not parameter.required:
        return () if parameter.multiple or parameter.nargs == -1 else None
    if value is parameter.default and type(value) is wanted:
        return value
    if value and isinstance(value, list | tuple) and get_origin(wanted) is list:
        texts = [_text(each, get_args(wanted)[0]) for each in value]
        return _TO_CONVERT if _TO_CONVERT in texts else texts
    return _text(value, wanted)


def _text(value: Any, wanted: Any) -> Any:
    if isinstance(value, str) and wanted is str:
        return value
    if isinstance(value, str) and wanted is Path and (os.access(value, os.R_OK) or not os.path.lexists(value)):
        return Path(value)
    return _TO_CONVERT
