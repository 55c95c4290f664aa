"""What `unveil bench engine` finds out."""

from __future__ import annotations

from dataclasses import dataclass

from flows.bench.disk import DiskRates


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can do."""

    #: Floating-point operations per second of the fastest matrix product, in the engine's number format.
    matmul: float
    #: Bytes per second that a copy in memory reads and writes.
    copy: float
    disk: DiskRates


@dataclass(frozen=True, slots=True)
class WayFigures:
    """A scene restored in one way. PSNR in dB for a peak of 1, SSIM -1..1, both on the hidden pixels."""

    name: str
    seconds: float
    tiles: int
    #: Tiles run again in float32.
    redone: int
    #: Against the first way of the table; infinite and 1 for itself.
    psnr_faithful: float
    ssim_faithful: float
    #: Against what the clear date saw.
    psnr_truth: float
    ssim_truth: float


@dataclass(frozen=True, slots=True)
class Proportion:
    """A scene of which a share of the tiles is needed."""

    fraction: float
    tiles: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EachStep:
    """The same tiles blended after every step instead of at the end; figures as in `TilingFigures`."""

    seconds: float
    seam: float
    psnr_untiled: float
    psnr_truth: float


@dataclass(frozen=True, slots=True)
class TilingFigures:
    """A scene restored everywhere with one size of tiles and overlap."""

    tile: int
    overlap: int
    #: Of the scene at hand, where the last tiles are pushed back to the edge, and of a whole Sentinel-2 tile.
    redundancy: float
    redundancy_whole: float
    #: Tiles' pixels run for one hidden pixel.
    redundancy_hidden: float
    seconds: float
    #: Step across tile borders over other steps, here and at the same lines of the untiled result.
    seam: float
    seam_untiled: float
    #: Against one tile as large as the scene, everywhere, dB; then against the truth on the hidden pixels.
    psnr_untiled: float
    psnr_truth: float
    each_step: EachStep


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What the engine makes of the machine when all of a scene is needed."""

    tiles: int
    seconds: float
    #: Floating-point operations of all tiles, reference network included.
    flops: int
    #: Pixels needed over pixels run.
    useful: float

    def share(self, peak: float) -> float:
        """Return the share of the matrix products' rate, 0..1."""
        return self.flops / self.seconds / peak


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Everything, measured in one run."""

    #: As torch calls it, for people.
    device: str
    threads: int
    limits: Limits
    #: Of the scene that products are made of: shares of its pixels that are hidden, and that no date saw.
    hidden: float
    unseen: float
    #: Area of the default product's tiles over that of the scene: gaps lie all over it.
    tiled: float
    #: Whole products: the paper's settings on every tile, then the product's.
    products: tuple[WayFigures, ...]
    #: The model alone, one option changed at a time, then together; the first is the paper's way.
    options: tuple[WayFigures, ...]
    proportions: tuple[Proportion, ...]
    tilings: tuple[TilingFigures, ...]
    #: Side and overlap of the default's tiles: for gaps that other dates leave, and for whole scenes.
    tiling_gaps: tuple[int, int]
    tiling_scenes: tuple[int, int]
    #: Side of the scene that was tiled, pixels, and PSNR of its untiled result against the truth, dB.
    side: int
    psnr_untiled: float
    utilisation: Utilisation
