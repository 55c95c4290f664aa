"""Smooth fields over a cell or a region: offsets on a coarse grid of nodes, from what is left over between images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from stac.grid.cell import Cell

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Most nodes along a side.
_NODES = 64
#: Reach of an observation, metres (standard deviation); at least one node.
_REACH_M = 1920.0
#: Share of observed pixels at which half of the local mean is believed: far from observations the field fades to 0.
_BELIEF = 0.02
#: Residuals are cut at this many robust standard deviations: changed ground is not part of the field.
_CUT = 3.0


@dataclass(frozen=True, slots=True)
class ResidualField:
    """Offsets on a coarse grid of nodes, between which they are bilinear, beyond which constant."""

    #: `[band][row][column]`, reflectance.
    offsets: tuple[tuple[tuple[float, ...], ...], ...]
    #: Coordinates (x, y) of the first node and steps (x, y) between nodes, in units of the projection.
    first: tuple[float, float]
    step: tuple[float, float]

    def at(self, cell: Cell) -> FloatArray:
        """Return the offsets of a window's pixels `(band, y, x)`, the same for a pixel whatever the window."""
        nodes, affine = np.array(self.offsets, np.float32), cell.geobox.affine
        height, width = (int(n) for n in cell.geobox.shape)
        top, left = cell.origin
        rows = self._nodes(top, height, float(affine.e), axis=1, count=nodes.shape[1])
        columns = self._nodes(left, width, float(affine.a), axis=0, count=nodes.shape[2])
        field: FloatArray = _between(_between(nodes, columns, 2), rows, 1)
        return field

    def _nodes(
        self, start: int, count_px: int, size: float, axis: int, count: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
        """Return for every pixel along an axis the nodes before and behind it, and its way from one to the other."""
        centres = (np.arange(start, start + count_px) + 0.5) * size
        place = ((centres - self.first[axis]) / self.step[axis]).clip(0, count - 1)
        before = np.floor(place).astype(np.intp)
        return before, np.minimum(before + 1, count - 1), (place - before).astype(np.float32)


def _between(nodes: FloatArray, places: tuple[NDArray[np.intp], NDArray[np.intp], FloatArray], axis: int) -> FloatArray:
    before, behind = nodes.take(places[0], axis), nodes.take(places[1], axis)
    behind -= before
    behind *= places[2] if axis == 2 else places[2][:, None]
    before += behind
    return before


def offsets_at(field: ResidualField | None, crs: str, cell: Cell) -> FloatArray | None:
    """Return the offsets of a window's pixels `(band, y, x)`, whatever the projection of the window.

    Args:
        field: offsets on a coarse grid of nodes, or None.
        crs: the projection of the nodes.
        cell: the window.
    """
    if field is None:
        return None
    if str(cell.geobox.crs) == crs:
        return field.at(cell)
    height, width = cell.geobox.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = cell.geobox.crs.transformer_to_crs(crs)(*(cell.geobox.affine @ (columns, rows)))
    nodes = np.array(field.offsets, np.float32)
    places = [(y - field.first[1]) / field.step[1], (x - field.first[0]) / field.step[0]]
    found: FloatArray = np.stack([map_coordinates(band, places, order=1, mode="nearest") for band in nodes])
    return found


def fit_field(residual: FloatArray, where: BoolArray, cell: Cell) -> ResidualField:
    """Return the local mean of residuals, fading to 0 away from observations.

    Args:
        residual: target - composite `(band, y, x)`, reflectance; anything outside `where`.
        where: `(y, x)`, pixels at which the residual is known.
        cell: the grid of both.
    """
    side = max(1, -(-max(where.shape) // _NODES))
    count = _pooled(where[None].astype(np.float32), side)[0] / side**2
    sigma = max(1.0, _REACH_M / (side * cell.gsd_m))
    density = gaussian_filter(count, sigma, mode="constant")
    nodes = []
    for band in residual:
        limit = _CUT * 1.4826 * float(np.median(np.abs(band[where]))) if where.any() else 0.0
        kept = np.where(where, band, 0).clip(-limit, limit).astype(np.float32)
        total = gaussian_filter(_pooled(kept[None], side)[0] / side**2, sigma, mode="constant")
        nodes.append(total / (density + _BELIEF))
    affine, (top, left) = cell.geobox.affine, cell.origin
    size_x, size_y = float(affine.a), float(affine.e)
    first = ((left + side / 2) * size_x, (top + side / 2) * size_y)
    offsets = tuple(tuple(tuple(float(f"{v:.6g}") for v in row) for row in band) for band in nodes)
    return ResidualField(offsets, first, (side * size_x, side * size_y))


def _pooled(values: FloatArray, side: int) -> FloatArray:
    """Return sums over squares of `side` pixels; squares at the edge hold what there is."""
    height, width = values.shape[1:]
    padded = np.pad(values, ((0, 0), (0, -height % side), (0, -width % side)))
    shape = (len(values), padded.shape[1] // side, side, padded.shape[2] // side, side)
    pooled: FloatArray = padded.reshape(shape).sum(axis=(2, 4))
    return pooled
