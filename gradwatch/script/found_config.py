"""Finds the hyperparameters of a script that passes none: of argparse, Hydra, Lightning and Transformers.

It listens to `argparse` and `TrainingArguments`, and asks the others when the recording begins. The script gets what it
would get alone.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gradwatch.recording.hyperparameters import Setting, of_hydra, settings_if_any
from gradwatch.script.imports import replace_after_import

Settings = dict[str, Setting | list[Setting]]

_TRAINING_ARGUMENTS = "transformers.training_args"


class ConfigListener:
    """Listens from before the script starts, and keeps the settings that it hears of."""

    def __init__(self) -> None:
        self._heard: Settings = {}
        self._stops: list[Callable[[], None]] = [
            self._listen_to_argparse(),
            replace_after_import(_TRAINING_ARGUMENTS, "TrainingArguments.__post_init__", self._heard_after),
        ]

    def settings(self, models: Iterable[object]) -> Settings:
        """All settings known when a recording of these models begins; empty if there are none.

        >>> listener = ConfigListener()
        >>> listener.settings([argparse.Namespace(hparams={"lr": 0.1})])
        {'lr': 0.1}
        >>> listener.stop()
        """
        found = dict(self._heard)
        for model in models:
            found |= settings_if_any(getattr(model, "hparams", None))
        return settings_if_any(found | of_hydra())

    def stop(self) -> None:
        """Stop listening."""
        stops, self._stops = self._stops, []
        for stop in stops:
            stop()

    def _listen_to_argparse(self) -> Callable[[], None]:
        """Keep what the script parses its command line into; a library may parse other words for itself."""
        original, listener = argparse.ArgumentParser.parse_known_args, self
        depth = 0  # of parsers in parsers

        @functools.wraps(original)
        def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
            nonlocal depth
            depth += 1
            try:
                found = original(self, args, namespace)
            finally:
                depth -= 1
            if depth == 0 and (args is None or list(args) == sys.argv[1:]):
                listener._heard |= settings_if_any(found[0])
            return found

        def stop() -> None:
            argparse.ArgumentParser.parse_known_args = original  # type: ignore[method-assign]

        argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign]
        return stop

    def _heard_after(self, original: Callable[..., None]) -> Callable[..., None]:
        """A `TrainingArguments.__post_init__` after which their values are heard."""

        @functools.wraps(original)
        def post_init(arguments: Any, *args: Any, **kwargs: Any) -> None:
            original(arguments, *args, **kwargs)
            self._heard |= settings_if_any(arguments)

        return post_init
