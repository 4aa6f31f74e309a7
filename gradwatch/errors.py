"""The errors that gradwatch raises, each with a slug.

The slug names a section of ``docs/messages.md`` that explains what happened and what to do.
An error about an argument is a `ValueError` too, so that callers can catch either.
"""

from __future__ import annotations


class GradwatchError(Exception):
    """Base class of all errors. The message ends with the slug.

    >>> try:
    ...     raise RunNotFound("There is no run at 'runs/lost'.")
    ... except GradwatchError as error:
    ...     print(error.slug, error, sep="; ")
    run-not-found; There is no run at 'runs/lost'. (run-not-found)
    """

    slug = "error"

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.slug})"


class BadArgument(GradwatchError, ValueError):
    """An argument has an invalid value."""

    slug = "bad-argument"


class NoParameters(GradwatchError, ValueError):
    """The model or optimizer has no parameters to watch."""

    slug = "no-parameters"


class TrainingStopped(GradwatchError):
    """An event occurred that `stop_on` names. Everything recorded is on the disk."""

    slug = "training-stopped"


class RunNotFound(GradwatchError):
    """No run exists at this path."""

    slug = "run-not-found"


class NotARun(GradwatchError):
    """The file at this path was not written by gradwatch."""

    slug = "not-a-run"


class StoreDamaged(GradwatchError):
    """The store is damaged and can't be read."""

    slug = "store-damaged"


class StoreTooNew(GradwatchError):
    """A newer version of gradwatch wrote the store."""

    slug = "store-too-new"


class StoreNotWritable(GradwatchError):
    """The run's folder or its store is not writable."""

    slug = "store-not-writable"


class StoreRemoved(GradwatchError):
    """The store was removed or replaced while a training wrote to it."""

    slug = "store-removed"


class StoreClosed(GradwatchError):
    """The script closed the descriptors of the store, as `os.closerange` does."""

    slug = "store-closed"


class RecorderProcessFailed(GradwatchError):
    """The recorder's process could not be started, or ended before the training."""

    slug = "recorder-process"


class ScriptNotFound(GradwatchError):
    """The script or module to run does not exist."""

    slug = "script-not-found"


class ShardedParameters(GradwatchError):
    """Each process holds only a shard of the parameters, whose norm is not the total norm."""

    slug = "sharded-parameters"


class UnsupportedVersion(GradwatchError, ImportError):
    """A package that an integration needs is missing or too old."""

    slug = "unsupported-version"


class RunInUse(GradwatchError):
    """Another process, or another watch in this process, writes to the run."""

    slug = "run-in-use"


class EmptyRun(GradwatchError):
    """No step of the run has been recorded yet."""

    slug = "empty-run"


class CannotExport(GradwatchError):
    """The target has an unknown file ending or is not writable, or a package is missing."""

    slug = "cannot-export"


class DataSetInUse(GradwatchError):
    """Another process exports into the data set."""

    slug = "data-set-in-use"


class CannotImport(GradwatchError):
    """The files hold no usable history, or the run exists already."""

    slug = "cannot-import"


class CannotTune(GradwatchError):
    """The script gives nothing to compare thresholds by, or the folder for its runs is in use."""

    slug = "cannot-tune"


class CannotPrint(GradwatchError):
    """Standard output is closed, or its disk is full."""

    slug = "cannot-print"


class CannotServe(GradwatchError):
    """The page can't be served at the address asked for."""

    slug = "cannot-serve"


class CaptureNotFound(GradwatchError):
    """No capture is in this folder."""

    slug = "capture-not-found"


class CaptureDamaged(GradwatchError, ValueError):
    """The files of a capture are damaged, or were not written by gradwatch."""

    slug = "capture-damaged"


class CaptureTooNew(GradwatchError):
    """A newer version of gradwatch wrote the capture."""

    slug = "capture-too-new"


class CaptureTooLarge(GradwatchError):
    """The capture has more bytes than may be read."""

    slug = "capture-too-large"


class CannotReplay(GradwatchError):
    """The capture and the model do not fit, or the script never calls the model."""

    slug = "cannot-replay"
