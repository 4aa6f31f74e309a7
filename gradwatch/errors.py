"""Everything that gradwatch may complain about, each kind with a slug.

A slug names the paragraph of ``docs/messages.md`` that says what happened and what to do.
`ValueError` is kept as a base where an argument is at fault, so that callers may catch either.
"""

from __future__ import annotations


class GradwatchError(Exception):
    """What gradwatch raises; its text ends in the slug."""

    slug = "error"

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.slug})"


class BadArgument(GradwatchError, ValueError):
    """An argument has a value that can't be meant."""

    slug = "bad-argument"


class NoParameters(GradwatchError, ValueError):
    """There is nothing to watch."""

    slug = "no-parameters"


class TrainingStopped(GradwatchError):
    """An event was found that the training was to be stopped for; everything recorded is on the disk."""

    slug = "training-stopped"


class RunNotFound(GradwatchError):
    """There is no run where one was expected."""

    slug = "run-not-found"


class NotARun(GradwatchError):
    """A file stands where a run was expected, and gradwatch did not write it."""

    slug = "not-a-run"


class StoreDamaged(GradwatchError):
    """The store was written by gradwatch and can't be read any more."""

    slug = "store-damaged"


class StoreTooNew(GradwatchError):
    """The store was written by a gradwatch newer than this one."""

    slug = "store-too-new"


class StoreNotWritable(GradwatchError):
    """The run's folder or its store can't be written."""

    slug = "store-not-writable"


class StoreRemoved(GradwatchError):
    """The store was removed, or another was put in its place, while a training wrote it."""

    slug = "store-removed"


class ScriptNotFound(GradwatchError):
    """There is no script, or no module, to run."""

    slug = "script-not-found"


class ShardedParameters(GradwatchError):
    """Each process holds a part of the parameters, and the norm of a part is not the norm."""

    slug = "sharded-parameters"


class UnsupportedVersion(GradwatchError, ImportError):
    """A package that an integration stands on is missing or too old."""

    slug = "unsupported-version"


class RunInUse(GradwatchError):
    """Another process, or another watch of this one, is writing to the run."""

    slug = "run-in-use"


class EmptyRun(GradwatchError):
    """The run holds no step yet."""

    slug = "empty-run"


class CannotExport(GradwatchError):
    """The file to export to has an unknown ending, or a package is missing."""

    slug = "cannot-export"


class CannotImport(GradwatchError):
    """A file holds no history that a run can be made of, or there is a run already."""

    slug = "cannot-import"


class CannotTune(GradwatchError):
    """The script can't be judged with several thresholds, or the folder for its runs is taken."""

    slug = "cannot-tune"
