"""The optimizer, the learning rate and the other settings of a training, from the config files beside its log.

JSON, YAML, TOML and Python files are read as data; nothing of them is executed. A pickle such as ``training_args.bin``
is never opened.
"""

from __future__ import annotations

import ast
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport
from gradwatch.recording.hyperparameters import settings_if_any
from gradwatch.sources.logged import OPTIMIZER_KEYS, optimizer_class
from gradwatch.sources.values import as_float

NAMES = (
    "training_args.json",
    "training_args.yaml",
    "args.json",
    "args.yaml",
    "hparams.yaml",
    ".hydra/config.yaml",
    "ds_config.json",
    "config.yaml",
    "config.yml",
    "config.json",
    "config.toml",
    "config.py",
    "llamaboard_config.yaml",
    "files/config.yaml",
    "README.md",
)
"""Config files by the path below the folder of a log, the most certain first."""

PICKLES = ("training_args.bin",)
RATE_KEYS = ("learning_rate", "lr", "base_lr")
MAX_BYTES = 2**20
MAX_DEPTH = 20
_CLASS_KEYS = ("name", "type", "_target_", "class_path", "class", "_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configs of a training tell.

    Attributes:
        optimizer: the class of the optimizer; empty: not known.
        learning_rate: that the optimizer began with; None: not known.
        config: all settings by their dotted names, without secrets.
        optimizer_from: the file and the setting that tell the optimizer.
        rate_from: the same for the learning rate.
        notes: more sentences for the user.
    """

    optimizer: str = ""
    learning_rate: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    optimizer_from: str = ""
    rate_from: str = ""
    notes: tuple[str, ...] = ()


def read(log: Path, config: Path | None = None) -> Settings:
    """Read the config that the user named, or the usual ones beside a log.

    The first file that tells the optimizer counts for it, and the first that tells a learning rate for that.

    Raises:
        CannotImport: the named config can't be read. Of others, such a file tells nothing.
    """
    if config is not None:
        return _joined({config.name: _read(config)})
    folder = log if log.is_dir() else log.parent
    files = dict(_beside(folder))
    found = {}
    for name, file in files.items():
        try:
            found[name] = _read(file)
        except CannotImport:
            continue
    settings = _joined({name: nested for name, nested in found.items() if optimizer_in(nested) or rate_in(nested)})
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    if pickles and not settings.optimizer:
        note = f"{pickles[0]} was not read: it is a pickle, which can run code; pass --optimizer instead"
        return replace(settings, notes=(note,))
    return settings


def of_tracker(settings: Mapping[str, Any], label: str) -> Settings:
    """What the settings of a tracker's run tell."""
    return _joined({f"the settings of run {label}": dict(settings)})


def _beside(folder: Path) -> Iterator[tuple[str, Path]]:
    """Config files by their names, in the folder of a log; for a checkpoint, in the folder above as well."""
    folders = [("", folder)]
    if folder.name.startswith("checkpoint"):
        folders.append(("../", folder.parent))
    for prefix, each in folders:
        named = [*NAMES, *(path.name for path in sorted(each.glob("*.toml"))[:10])]
        for name in dict.fromkeys(named):
            if (each / name).is_file():
                yield prefix + name, each / name
    if not (folder / ".hydra").is_dir() and (folder.parent / ".hydra" / "config.yaml").is_file():
        yield "../.hydra/config.yaml", folder.parent / ".hydra" / "config.yaml"


def _joined(files: Mapping[str, Mapping[str, Any]]) -> Settings:
    found = Settings()
    for name, nested in files.items():
        found = replace(found, config=settings_if_any(nested) | dict(found.config))
        told, base = optimizer_in(nested), rate_in(nested)
        if told and not found.optimizer:
            found = replace(found, optimizer=told[1], optimizer_from=f"{name} ({told[0]})")
        if base and found.learning_rate is None:
            found = replace(found, learning_rate=base[1], rate_from=f"{name} ({base[0]})")
    return found


def optimizer_in(nested: Mapping[str, Any]) -> tuple[str, str] | None:
    """The setting that tells the optimizer, and its class; None if there is none, or several that differ.

    >>> optimizer_in({"optimizer": {"name": "AdamW", "lr": 1e-3}}), optimizer_in({"optim": "adamw_torch"})
    (('optimizer.name', 'AdamW'), ('optim', 'AdamW'))
    >>> optimizer_in({"generator": {"optimizer": "Adam"}, "critic": {"optimizer": "SGD"}}) is None
    True
    """

    def tells(path: tuple[str, ...]) -> bool:
        last, above = path[-1].lower(), [part.lower() for part in path[:-1]]
        if last in OPTIMIZER_KEYS or (last == "value" and above[-1:] and above[-1] in OPTIMIZER_KEYS):
            return True
        return last in _CLASS_KEYS and bool(above) and above[-1] in OPTIMIZER_KEYS

    return _only((path, optimizer_class(value)) for path, value in _leaves(nested) if tells(path))


def rate_in(nested: Mapping[str, Any]) -> tuple[str, float] | None:
    """The setting that tells the learning rate, and its value; None if there is none, or several that differ.

    >>> rate_in({"optimizer": {"type": "AdamW", "params": {"lr": 3e-5}}})
    ('optimizer.params.lr', 3e-05)
    """

    def tells(path: tuple[str, ...]) -> bool:
        parts = [part.lower() for part in path]
        return parts[-1] in RATE_KEYS or (parts[-1] == "value" and parts[-2:-1] != [] and parts[-2] in RATE_KEYS)

    def rate(value: Any) -> float | None:
        number = None if isinstance(value, bool) else as_float(value)
        return number if number is not None and math.isfinite(number) and number > 0 else None

    return _only((path, rate(value)) for path, value in _leaves(nested) if tells(path))


def _only(found: Iterator[tuple[tuple[str, ...], Any]]) -> tuple[str, Any] | None:
    """The least nested of the settings that have a value; None if two at that depth differ."""
    known = [(path, value) for path, value in found if value]
    if not known:
        return None
    depth = min(len(path) for path, _ in known)
    values = {value for path, value in known if len(path) == depth}
    path, value = next(one for one in known if len(one[0]) == depth)
    return (".".join(path), value) if len(values) == 1 else None


def _leaves(nested: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in nested.items():
        path = (*above, *re.split(r"[./]", str(key)))
        if isinstance(value, Mapping):
            if len(path) < MAX_DEPTH:
                yield from _leaves(value, path)
        else:
            yield path, value


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CannotImport(f"The config {str(file)!r} has more than {MAX_BYTES} bytes.")
        found = _reader(file)(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise CannotImport(f"The config {str(file)!r} can't be read: {error}.") from error
    if not isinstance(found, dict):
        raise CannotImport(f"The config {str(file)!r} holds no settings.")
    return found


def _reader(file: Path) -> Callable[[str], Any]:
    readers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".toml": tomllib.loads,
        ".yaml": yaml_settings,
        ".yml": yaml_settings,
        ".py": python_settings,
        ".md": card_settings,
    }
    if file.suffix not in readers:
        raise CannotImport(f"The config {file.name!r} is of no known kind; expected {', '.join(readers)}.")
    return readers[file.suffix]


def python_settings(text: str) -> dict[str, Any]:
    r"""The literals that a Python file assigns at its top level, as nanoGPT's configs do; it is not executed.

    >>> python_settings("learning_rate = 6e-4\nbatch_size = 12 * 2\ndecay_lr = True")
    {'learning_rate': 0.0006, 'decay_lr': True}
    """
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                continue
    return found


def card_settings(text: str) -> dict[str, Any]:
    r"""The hyperparameters that a model card of the Transformers Trainer lists.

    Cards before Transformers 4.46 say "Adam" of every optimizer but Adafactor, so only the newer wording is taken.

    >>> card_settings("- learning_rate: 5e-05\n- optimizer: Use adamw_torch with betas=(0.9,0.999)")
    {'learning_rate': '5e-05', 'optimizer': 'adamw_torch'}
    """
    found = dict(re.findall(r"^- (\w+): (.+?)\s*$", text, re.MULTILINE))
    told = re.match(r"Use (?:OptimizerNames\.)?(\w+) with\b", found.pop("optimizer", ""))
    return found | ({"optimizer": told[1]} if told else {})


_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w./-]+|'[^']*'|\"[^\"]*\") *:(?: +(?P<value>.*))?")


def yaml_settings(text: str) -> dict[str, Any]:
    r"""The nested scalars of a YAML file; lists and blocks of text are left out.

    >>> yaml_settings("lr: 1e-3  # peak\noptimizer:\n  _target_: torch.optim.AdamW\n  fused: true")
    {'lr': 0.001, 'optimizer': {'_target_': 'torch.optim.AdamW', 'fused': True}}
    """
    top: dict[str, Any] = {}
    levels: list[tuple[int, dict[str, Any]]] = [(-1, top)]
    for line in text.splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            continue
        indent = len(match["indent"])
        while len(levels) > 1 and levels[-1][0] >= indent:
            levels.pop()
        key, value = match["key"].strip("'\""), _without_comment(match["value"] or "")
        if value:
            levels[-1][1][key] = _scalar(value)
        elif len(levels) < MAX_DEPTH:
            below: dict[str, Any] = {}
            levels[-1][1][key] = below
            levels.append((indent, below))
    return top


def _without_comment(value: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", value).strip() if value[:1] not in "'\"" else value.strip()


def _scalar(value: str) -> Any:
    """A scalar of YAML 1.2: a number, true, false, null, or text."""
    plain = {"true": True, "false": False, "null": None, "~": None}
    if value.lower() in plain:
        return plain[value.lower()]
    if re.fullmatch(r"[-+]?\d{1,300}", value):
        return int(value)
    if re.fullmatch(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        return as_float(value)
    return value.strip("'\"")
