"""The page of a run in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True, slots=True)
class NotebookPage:
    """The page of a run, which a notebook shows in a frame. It has no access to the notebook around it.

    Attributes:
        document: the whole page as HTML.
        height: of the frame, in pixels.
    """

    document: str = field(repr=False)
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="gradwatch" sandbox="allow-scripts allow-downloads" srcdoc="{escape(self.document)}"'
            f' style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )
