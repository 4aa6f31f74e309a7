"""Defaults of the command line from ``[tool.gradwatch]`` in pyproject.toml and from ``GRADWATCH_*`` variables.

A key of ``[tool.gradwatch.COMMAND]`` is the default of an option of that command. A key of ``[tool.gradwatch]``
itself is the default of every command that has such an option. ``GRADWATCH_COMMAND_OPTION`` overrides both, and the
command line overrides all.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradwatch.errors import BadArgument

PREFIX = "GRADWATCH"
FILE_NAME = "pyproject.toml"
OTHER_VARIABLES = ("GRADWATCH_FUSED",)
"""Variables that are read elsewhere and are no options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of a command as the user writes it.

    Attributes:
        command: its command.
        name: the name of its parameter in Python.
        flag: as on the command line, for example ``--min-steps``.
        variable: the environment variable that sets it.
        default: its built-in default, as text.
        is_list: whether it may be repeated.
    """

    command: str
    name: str
    flag: str
    variable: str
    default: str
    is_list: bool = False

    @property
    def key(self) -> str:
        """Its key in pyproject.toml."""
        return self.flag.removeprefix("--")


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The table ``[tool.gradwatch]`` of the nearest pyproject.toml; empty if there is none."""

    file: Path | None = None
    table: Mapping[str, Any] | None = None

    def by_command(self, options: Sequence[Option], unknown: list[str] | None = None) -> dict[str, dict[str, Any]]:
        """The defaults by command and name of the parameter.

        Args:
            options: of all commands.
            unknown: gets a sentence for each key that is no option, instead of an error.

        Raises:
            BadArgument: a key is no option, or no option of its command, or a command is no table.

        >>> option = Option(command="check", name="min_steps", flag="--min-steps", variable="", default="")
        >>> Defaults(table={"check": {"min-steps": 9}}).by_command([option])
        {'check': {'min_steps': 9}}
        >>> Defaults(table={"min_steps": 9}).by_command([option])
        {'check': {'min_steps': 9}}
        """
        found: dict[str, dict[str, Any]] = {}
        commands = {option.command for option in options}
        # General keys first, so that those of a command override them.
        for key, value in sorted((self.table or {}).items(), key=lambda pair: isinstance(pair[1], dict)):
            if not isinstance(value, dict):
                if key in commands and key not in {option.key for option in options}:
                    raise BadArgument(f"{str(self.file)!r} sets tool.gradwatch.{key} to {value!r}; expected a table.")
                self._put(found, key, value, options, "", unknown)
            elif key not in commands:
                self._refuse(key, sorted(commands), unknown)
            else:
                own = [option for option in options if option.command == key]
                for inner, setting in value.items():
                    self._put(found, inner, setting, own, f"{key}.", unknown)
        return found

    def _put(
        self,
        found: dict[str, dict[str, Any]],
        key: str,
        value: Any,
        options: Sequence[Option],
        prefix: str,
        unknown: list[str] | None,
    ) -> None:
        matching = [option for option in options if key.replace("_", "-") == option.key]
        if not matching:
            self._refuse(f"{prefix}{key}", sorted({f"{prefix}{option.key}" for option in options}), unknown)
        for option in matching:
            is_one = option.is_list and not isinstance(value, list)
            found.setdefault(option.command, {})[option.name] = [value] if is_one else value

    def _refuse(self, key: str, known: Sequence[str], unknown: list[str] | None) -> None:
        hint = suggestion(key, known)
        if unknown is None:
            expected = hint or f"expected one of {', '.join(known)}."
            raise BadArgument(f"{str(self.file)!r} sets tool.gradwatch.{key}; {expected}")
        unknown.append(f"tool.gradwatch.{key} in {str(self.file)!r} is no setting{hint and f'; {hint}'}")


def read_defaults(folder: Path) -> Defaults:
    """Read the table of the pyproject.toml in a folder, or in the nearest folder above it that has one.

    Raises:
        BadArgument: the file can't be read, or ``tool.gradwatch`` is no table.
    """
    for file in _candidates(folder):
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("gradwatch", {})
        except (OSError, ValueError, AttributeError) as error:
            # It is not ours alone: only a file that mentions gradwatch can be meant for it.
            if _mentions_gradwatch(file):
                raise BadArgument(f"{str(file)!r} can't be read: {error}.") from error
            return Defaults()
        if not isinstance(table, dict):
            raise BadArgument(f"{str(file)!r} sets tool.gradwatch to {table!r}; expected a table.")
        return Defaults(file=file, table=table)
    return Defaults()


def _candidates(folder: Path) -> Iterator[Path]:
    for parent in (folder, *folder.parents):
        file = parent / FILE_NAME
        if file.is_file():
            yield file
            return


def _mentions_gradwatch(file: Path) -> bool:
    try:
        return b"tool.gradwatch" in file.read_bytes()
    except OSError:
        return False


def options_of(command: Any) -> list[Option]:
    """The options of each command of a group, without --help."""
    found = []
    for name, sub in sorted(command.commands.items()):
        for parameter in sub.params:
            flag = _flag(parameter)
            if flag is None or flag == "--help":
                continue
            found.append(
                Option(
                    command=name,
                    name=parameter.name,
                    flag=flag,
                    variable=_variable(name, parameter),
                    default="" if parameter.default is None else str(parameter.default),
                    is_list=bool(parameter.multiple),
                )
            )
    return found


def from_environment(options: Sequence[Option], environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The defaults that ``GRADWATCH_COMMAND_OPTION`` sets; one that may be repeated is split at spaces.

    >>> option = Option(
    ...     command="run", name="stop_on", flag="--stop-on", variable="GRADWATCH_RUN_STOP_ON", default="", is_list=True
    ... )
    >>> from_environment([option], {"GRADWATCH_RUN_STOP_ON": "nonfinite spike"})
    {'run': {'stop_on': ['nonfinite', 'spike']}}
    """
    found: dict[str, dict[str, Any]] = {}
    for option in options:
        value = environment.get(option.variable)
        if value:
            found.setdefault(option.command, {})[option.name] = value.split() if option.is_list else value
    return found


def unknown_variables(options: Sequence[Option], names: Iterable[str]) -> list[str]:
    """A sentence for each variable that begins with `PREFIX` and sets nothing.

    >>> unknown_variables([], ["GRADWATCH_FUSED", "HOME", "GRADWATCH_RUN"])
    ['GRADWATCH_RUN is no setting']
    """
    known = sorted({option.variable for option in options} | set(OTHER_VARIABLES))
    unknown = sorted(name for name in names if name.startswith(f"{PREFIX}_") and name not in known)
    return [f"{name} is no setting{(hint := _nearest_variable(name, known)) and f'; {hint}'}" for name in unknown]


def _nearest_variable(name: str, known: Sequence[str]) -> str:
    """`suggestion` by what follows the beginning that all share."""
    hint = suggestion(name.removeprefix(f"{PREFIX}_"), [each.removeprefix(f"{PREFIX}_") for each in known])
    return hint.replace("'", f"'{PREFIX}_", 1)


def suggestion(name: str, known: Sequence[str]) -> str:
    """The nearest known name as a question; empty if none is near.

    >>> suggestion("layer", ["json", "layers"]), suggestion("x", ["json"])
    ("did you mean 'layers'?", '')
    """
    near = difflib.get_close_matches(name, known, 1, 0.75)
    return f"did you mean {near[0]!r}?" if near else ""


def used_defaults(context: Any, environment: Mapping[str, str]) -> list[str]:
    """The options of the current command whose value is a default of the user, with the place where it stands.

    An address to notify may hold a secret, so values are not repeated here.
    """
    places = {_flag(parameter): place_of(context, parameter, environment) for parameter in context.command.params}
    return [f"{flag} from {place}" for flag, place in places.items() if place is not None]


def place_of(context: Any, parameter: Any, environment: Mapping[str, str]) -> str | None:
    """Where the user set the default that an option has now; None if the value is not such a default."""
    source = context.get_parameter_source(parameter.name)
    if _flag(parameter) is None or source is None or source.name not in ("DEFAULT_MAP", "ENVIRONMENT"):
        return None
    variable = _variable(context.info_name, parameter)
    return variable if environment.get(variable) else FILE_NAME


def _flag(parameter: Any) -> str | None:
    if parameter.param_type_name != "option":
        return None
    return next((flag for flag in parameter.opts if flag.startswith("--")), None)


def _variable(command: str, parameter: Any) -> str:
    if parameter.envvar:
        return str(parameter.envvar)
    return f"{PREFIX}_{command}_{parameter.name}".upper().replace("-", "_")
