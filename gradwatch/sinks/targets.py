"""The places that records are sent to, as the user writes them: ``wandb``, ``mlflow:URI``, ``openmetrics:FILE``, ..."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from gradwatch.errors import BadArgument, UnsupportedVersion
from gradwatch.record import StepRecord
from gradwatch.sinks.tracker import Tracker

if TYPE_CHECKING:
    from gradwatch.sinks.wandb_run import WandbRun

Target: TypeAlias = str | Tracker

_CLASSES = {
    "wandb": ("wandb_run", "WandbRun"),
    "mlflow": ("mlflow_run", "MlflowRun"),
    "trackio": ("trackio_run", "TrackioRun"),
    "tensorboard": ("tensorboard", "TensorBoardFiles"),
    "openmetrics": ("openmetrics", "OpenMetricsFile"),
}
"""The module and the class of each kind, which are imported for a recording that asks for it."""

KINDS = tuple(_CLASSES)
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Where records go beside the run, as the user says it.

    Attributes:
        to: names as `parse_target` reads them, and objects.
        on_record: a function of the user's.
        notify: addresses of apprise, which may hold passwords.
        notify_link: stands at the end of each message to them.
    """

    to: tuple[Target, ...] = ()
    on_record: Callable[[StepRecord], object] | None = None
    notify: tuple[str, ...] = field(default=(), repr=False)
    notify_link: str | None = None

    @classmethod
    def of(
        cls,
        to: Target | Sequence[Target] = (),
        on_record: Callable[[StepRecord], object] | None = None,
        notify: str | Sequence[str] = (),
        notify_link: str | None = None,
    ) -> Self:
        """What `attach` is given, where one of a kind may stand alone."""
        targets = [to] if isinstance(to, str) or not isinstance(to, Sequence) else to
        addresses = [notify] if isinstance(notify, str) else notify
        return cls(to=tuple(targets), on_record=on_record, notify=tuple(addresses), notify_link=notify_link)

    def trackers(self) -> list[Tracker]:
        """A tracker for each place, which is not open yet.

        Raises:
            BadArgument, UnsupportedVersion: one of them is none.
        """
        return [*trackers(self.to), *own_trackers(self.on_record, self.notify, self.notify_link)]

    @property
    def of_this_process(self) -> str:
        """What only this process has, such as a function of the user's; empty if there is nothing."""
        if self.on_record is not None:
            return "on_record"
        return next((f"a {type(one).__name__} in to" for one in self.to if not isinstance(one, str)), "")

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for another process to make the trackers of."""
        own: dict[str, Any] = {}
        if any(isinstance(one, str) and one.partition(":")[0] == "wandb" for one in self.to):
            from gradwatch.sinks.wandb_run import script_run

            own = script_run()
        return {"to": self.to, "notify": self.notify, "notify_link": self.notify_link, "script_run": own}


def trackers_of_plain(values: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of `Destinations.plain`, in another process.

    >>> [one.label for one in trackers_of_plain(Destinations.of("tensorboard:logs").plain())]
    ['tensorboard']
    """
    found = Destinations.of(values["to"], None, values["notify"], values["notify_link"]).trackers()
    for one in found:
        if one.label == "wandb":
            cast("WandbRun", one).stand_beside(**values["script_run"])
    return found


def parse_target(text: str) -> Tracker:
    """Make the tracker of ``KIND`` or ``KIND:WHERE``.

    ``WHERE`` is a project of wandb or trackio, MLflow's tracking URI, a folder for event files, or the file of
    OpenMetrics.

    Raises:
        BadArgument: there is no such kind, or ``openmetrics`` has no file.
        UnsupportedVersion: its package is not installed.

    >>> parse_target("tensorboard:logs").label
    'tensorboard'
    """
    kind, _, where = text.partition(":")
    if kind not in KINDS:
        raise BadArgument(f"to is {text!r}; expected one of {', '.join(KINDS)}, or KIND:WHERE.")
    package = _PACKAGES.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UnsupportedVersion(f"{package} is not installed: `pip install gradwatch[{kind}]`.")
    if kind == "openmetrics" and not where:
        raise BadArgument(f"to is {text!r}; expected a file, for example openmetrics:/var/lib/node_exporter/run.prom.")
    module, name = _CLASSES[kind]
    make: Callable[[Any], Tracker] = getattr(importlib.import_module(f"gradwatch.sinks.{module}"), name)
    is_path = kind in ("tensorboard", "openmetrics")
    return make((Path(where) if is_path else where) if where else None)


def trackers(to: Target | Sequence[Target]) -> list[Tracker]:
    """The trackers of ``attach(to=...)``; one may stand alone.

    Raises:
        BadArgument, UnsupportedVersion: one of them is none.
    """
    targets = [to] if isinstance(to, str) or not isinstance(to, Sequence) else list(to)
    return [parse_target(target) if isinstance(target, str) else _checked(target) for target in targets]


def own_trackers(
    on_record: Callable[[StepRecord], object] | None, notify: str | Sequence[str], notify_link: str | None = None
) -> list[Tracker]:
    """The trackers of ``attach(on_record=..., notify=..., notify_link=...)``.

    Raises:
        BadArgument: an address is none that apprise knows, or the link is no URL.
        UnsupportedVersion: apprise is not installed.
    """
    addresses = [notify] if isinstance(notify, str) else list(notify)
    found: list[Tracker] = []
    if on_record is not None:
        from gradwatch.sinks.callback import RecordCallback

        found.append(RecordCallback(on_record))
    if addresses or notify_link is not None:
        from gradwatch.sinks.notify import Notifications, check_link

        check_link(notify_link)
        if addresses:
            found.append(Notifications(addresses, link=notify_link))
    return found


def _checked(target: Tracker) -> Tracker:
    if not all(callable(getattr(target, name, None)) for name in ("open", "show", "tell", "rest", "close")):
        raise BadArgument(
            f"to has a {type(target).__name__}; expected a name or an object with the methods of Tracker."
        )
    return target
