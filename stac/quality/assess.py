"""Measuring a product from its written files, window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from stac.io.cores import cores
from stac.product.layers import SOURCE_DATE_NODATA, Provenance
from stac.quality.figures import HALF_WIDTH_EDGES, WEIGHT_EDGES, GroupFigures, QualityFigures, SourceDate
from stac.quality.measures import CloudTally, ColourTally, IntervalTally, ResidualCloud, SeamTally, SharpnessTally
from stac.quality.parts import EVERYTHING, GROUPS, WINDOW, Part, Product, groups_of, reach_of
from stac.reflectance import PRODUCT_SCALE

#: Measurements that can go on at once, while the next window is read.
_AT_ONCE = 5
_EDGES, _WEIGHT_EDGES = (
    np.rint(np.array(edges) / PRODUCT_SCALE).astype(np.int64) for edges in (HALF_WIDTH_EDGES, WEIGHT_EDGES)
)


def assess(folder: Path, bands: Sequence[str], *, window: int = WINDOW) -> QualityFigures:
    """Measure the product whose files lie in a folder.

    Everything is counted in integers, so that the figures are the same whatever the windows.

    Args:
        folder: with data.tif, provenance.tif, uncertainty.tif, reference_weight.tif and source_date.tif.
        bands: common names in the order of data.tif.
        window: side of the windows that are read, pixels; memory grows with its square.

    Raises:
        InvalidProduct: a file is missing, cannot be read, or does not fit the others.
    """
    product = Product.open(folder, tuple(bands))
    reach = reach_of(product.gsd_m)
    tally = _Tally(product.bands, reach)
    parts = product.parts(reach, window)
    # Files belong to the thread that opened them.
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(min(_AT_ONCE, cores()), "quality") as pool:
        try:
            reading = reader.submit(next, parts, None)
            while (part := reading.result()) is not None:
                reading = reader.submit(next, parts, None)
                tally.add(part, pool)
        finally:
            reader.submit(parts.close)
    return tally.figures(product.pixel_km2)


class _Tally:
    """All measurements of one product."""

    def __init__(self, bands: tuple[str, ...], reach: int) -> None:
        self.bands, self.reach = bands, reach
        self.pixels, self.days = np.zeros(len(Provenance), np.int64), Counter[int]()
        self.sharpness, self.colour, self.clouds = SharpnessTally(), ColourTally(bands), CloudTally(bands)
        self.seams, self.intervals = SeamTally(), IntervalTally()

    def add(self, part: Part, pool: Executor) -> None:
        """Measure a window: what does not depend on each other at once."""
        seams = pool.submit(self.seams.add, part)
        groups = groups_of(part, self.reach)
        tallies = (self.sharpness, self.colour, self.clouds, self.intervals)
        measured = [seams, *(pool.submit(tally.add, part, groups) for tally in tallies)]
        self.pixels += np.bincount(part.own.ravel(), minlength=len(Provenance))
        days, counts = np.unique(part.source_date, return_counts=True)
        self.days.update(dict(zip(days.tolist(), counts.tolist(), strict=True)))
        for done in measured:
            done.result()

    def figures(self, pixel_km2: float) -> QualityFigures:
        clouds = self.clouds.result()
        present = {name: self._count(name) for name in GROUPS if self._count(name)}
        valid = int(self.pixels.sum() - self.pixels[Provenance.NODATA])
        return QualityFigures(
            areas_km2={p.name.lower(): round(int(self.pixels[p]) * pixel_km2, 4) for p in Provenance},
            groups={name: self._group(name, pixels, clouds) for name, pixels in present.items()},
            seams=self.seams.seams(len(self.bands)),
            seam_ratio=self.seams.ratio(),
            observed_cloud=clouds.observed_share if clouds else None,
            cloud_threshold=clouds.threshold if clouds else None,
            not_recoverable=int(self.pixels[Provenance.NOT_RECOVERABLE]) / valid if valid else None,
            restored_share=self._count(EVERYTHING) / valid if valid else None,
            dates=tuple(
                SourceDate(str(np.datetime64(day, "D")), round(count * pixel_km2, 4))
                for day, count in sorted(self.days.items())
                if day != SOURCE_DATE_NODATA
            ),
            reach=self.reach,
        )

    def _count(self, name: str) -> int:
        return int(sum(self.pixels[p] for p in GROUPS[name]))

    def _group(self, name: str, pixels: int, clouds: ResidualCloud | None) -> GroupFigures:
        widths, weights = self.intervals.half_widths[name], self.intervals.weights[name]
        return GroupFigures(
            pixels=pixels,
            half_width_mean=widths.mean(),
            half_width_p90=widths.quantile(0.9),
            half_widths=widths.binned(_EDGES),
            reference_weight=weights.mean(),
            reference_weights=weights.binned(_WEIGHT_EDGES),
            sharpness=self.sharpness.ratio(name),
            colour_shift=self.colour.shift(name),
            ndvi_shift=self.colour.ndvi_shift(name),
            residual_cloud=clouds.shares.get(name) if clouds else None,
        )
