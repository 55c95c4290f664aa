"""Restoring a scene part by part, with the bytes that the whole scene would give."""

from __future__ import annotations

from dataclasses import dataclass

from de_model.errors import InvalidModelInput
from de_model.inference.frame import Frame
from de_model.inference.tiles import starts
from de_model.scene.observation import Levels

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """A window of a larger scene, handed to `restore` in place of the scene."""

    #: Rows and columns of the whole scene.
    scene: tuple[int, int]
    #: Row and column of the window's first pixel in the scene.
    offset: tuple[int, int]
    #: Reflectance per band put where the scene has no data; the same for all parts of a scene.
    fill: tuple[float, ...]
    #: Levels of the whole scene, for models of the second edition; None takes those of the window.
    levels: Levels | None = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InvalidModelInput` unless a window of `shape` lies inside the scene."""
        if any(o < 0 or o + n > whole for o, n, whole in zip(self.offset, shape, self.scene, strict=True)):
            raise InvalidModelInput(f"A part of {shape} at {self.offset} does not lie in a scene of {self.scene} px.")


def surroundings(rows: Span, columns: Span, frame: Frame, size: int, overlap: int) -> tuple[Span, Span]:
    """Return the rows and columns of a scene that must be read to restore some of its pixels.

    Args:
        rows: first row and the row after the last of the pixels that are wanted.
        columns: likewise.
        frame: the canvas of the whole scene.
        size: side of a tile, pixels.
        overlap: pixels shared by neighbours.
    """
    vertical, horizontal = (
        _span(wanted, length, before, canvas, size, overlap)
        for wanted, length, (before, _), canvas in zip(
            (rows, columns), frame.shape, frame.padding, frame.canvas_shape, strict=True
        )
    )
    return vertical, horizontal


def _span(wanted: Span, length: int, before: int, canvas: int, size: int, overlap: int) -> Span:
    first, last = wanted[0] + before, wanted[1] + before
    touching = [start for start in starts(canvas, size, overlap) if start < last and start + size > first]
    return max(touching[0] - before, 0), min(touching[-1] + size - before, length)
