"""The hyperparameters of a training, from whatever holds them, as one flat mapping that JSON can hold."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gradwatch.errors import BadArgument

Config: TypeAlias = Mapping[str, Any] | object
Setting: TypeAlias = str | int | float | bool | None

MOST_SETTINGS = 1000
LONGEST_TEXT = 1000  # characters of one setting
HIDDEN = "(hidden)"
_PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
"""The user and the password of an address."""
_SECRET = re.compile(r"(^|[._-])(token|password|passwd|secret|api_?key|access_?key|credentials?)$", re.IGNORECASE)


def as_settings(config: Config | None) -> dict[str, Setting | list[Setting]]:
    """Return the settings by their dotted names; names that tell a secret have their value hidden.

    Args:
        config: a mapping, a dataclass, an `argparse.Namespace`, a Hydra or OmegaConf config, Lightning's
            ``hparams``, `TrainingArguments`, or any object whose attributes are the settings.

    Raises:
        BadArgument: it has no settings, or more than `MOST_SETTINGS`.

    >>> as_settings({"model": {"depth": 4, "act": print}, "lr": 1e-3, "hub_token": "x"})
    {'model.depth': 4, 'model.act': '<built-in function print>', 'lr': 0.001, 'hub_token': '(hidden)'}
    """
    if config is None:
        return {}
    try:
        found = dict(_flat(_mapping(config), ""))
    except RecursionError as error:
        raise BadArgument("config is nested too deeply, or holds itself.") from error
    if len(found) > MOST_SETTINGS:
        raise BadArgument(f"config has {len(found)} settings; expected at most {MOST_SETTINGS}.")
    return found


def settings_if_any(config: Config | None) -> dict[str, Setting | list[Setting]]:
    """`as_settings` of what a framework holds; nothing if it can't be read, which must not end a training."""
    try:
        return as_settings(config)
    except Exception:
        return {}


def settings_text(config: Config | None) -> str | None:
    """The settings as the store keeps them; None if there are none."""
    found = as_settings(config)
    return json.dumps(found) if found else None


def found_settings(model: object) -> dict[str, Setting | list[Setting]]:
    """The settings of a training that passes none: of its script's namespace, Lightning's ``hparams`` and Hydra.

    The namespace is the only `argparse.Namespace` among the global variables of ``__main__``. Local variables of
    functions are not read: up to Python 3.12 that would keep the tensors alive that they hold.

    >>> found_settings(argparse.Namespace(hparams={"lr": 0.1}))
    {'lr': 0.1}
    """
    try:
        hparams = getattr(model, "hparams", None)
    except Exception:  # a property of the user's
        hparams = None
    return settings_if_any(settings_if_any(_namespace_of_the_script()) | settings_if_any(hparams) | of_hydra())


def _namespace_of_the_script() -> argparse.Namespace | None:
    """The only namespace among the script's global variables; None if there are several."""
    values = list(vars(sys.modules.get("__main__", object)).values())
    # By type(), because isinstance makes lazy objects load what they stand for.
    found = {id(value): value for value in values if issubclass(type(value), argparse.Namespace)}
    return next(iter(found.values())) if len(found) == 1 else None


def of_hydra() -> dict[str, Setting | list[Setting]]:
    """The config that Hydra composed, from the file that it writes into the folder of its job; empty without Hydra."""
    hydra: Any = sys.modules.get("hydra.core.hydra_config")
    omegaconf: Any = sys.modules.get("omegaconf")
    try:
        folder = Path(hydra.HydraConfig.get().runtime.output_dir)
        return settings_if_any(omegaconf.OmegaConf.load(folder / ".hydra" / "config.yaml"))
    except Exception:  # there is no Hydra, or it has not begun, or it writes no file
        return {}


def _mapping(config: Any) -> Mapping[str, Any]:
    for name in ("to_sanitized_dict", "to_dict"):  # of TrainingArguments; of configs of transformers
        method = getattr(config, name, None)
        if callable(method) and not isinstance(config, Mapping | type):
            found = method()
            if isinstance(found, Mapping):
                return found
    if isinstance(config, Mapping):
        return config
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    try:
        return dict(vars(config))
    except TypeError:
        raise BadArgument(
            f"config is a {type(config).__name__}; expected a mapping, a dataclass or a namespace."
        ) from None


def _flat(mapping: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Setting | list[Setting]]]:
    for key in mapping:
        name = f"{prefix}{key}"
        if str(key).startswith("_"):
            continue
        try:
            value = mapping[key]
        except Exception:  # a value of OmegaConf that is missing or can't be interpolated
            value = "(missing)"
        if _SECRET.search(name):
            yield name, HIDDEN
        elif (parts := _parts(value)) is not None:
            yield from _flat(parts, f"{name}.")
        elif isinstance(value, list | tuple | set) and len(value) <= MOST_SETTINGS:
            yield name, [_plain(each) for each in value]
        else:
            yield name, _plain(value)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """What a value consists of, by name or number; None if it is one setting."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping(value)
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        return dict(enumerate(value))
    return None


def _plain(value: Any) -> Setting:
    """The value itself if JSON has it, a number of numpy or torch as Python's, else its text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return _plain(item())
    try:
        return _PASSWORD.sub(HIDDEN, str(value)[:LONGEST_TEXT])
    except Exception:  # of an object of the user's
        return f"<{type(value).__name__}>"
