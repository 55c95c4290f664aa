"""A challenger beside the champion and beside trivial fillers: figures, limits, verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from de_model.calibration import Origin
from de_model.metrics.bootstrap import Interval
from de_model.validation import Filler
from flows.models.evaluation_figures import Evaluation
from flows.models.shadow import Shadow
from stac.quality.gate import Check, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits; the defaults let a challenger pass that is not worse than the champion, nor than a trivial filler."""

    # Against the truth of the evaluation.
    #: A challenger whose gain in PSNR may be lower than this is refused: the lower end of its interval, dB.
    least_gain_db: float = -0.02
    #: Mean gain in PSNR over the best trivial filler that a challenger must reach, dB.
    least_trivial_gain_db: float = 0.0
    #: Mean PSNR over blocks that a challenger must reach whatever the champion does, dB.
    least_psnr_db: float = 20.0
    #: Share of the values that must lie inside their 90 % intervals, at least and at most. Real change between the
    #: dates counts against the model.
    least_coverage: float = 0.85
    most_coverage: float = 0.95
    #: Observed pixels that may come out other than they were observed.
    most_changed_pixels: int = 0
    #: Blocks without which nothing can be said.
    least_blocks: int = 20
    # Cost.
    #: Time of the challenger over that of the champion on the same scenes.
    most_time_ratio: float = 1.5
    #: Size of the weights file, bytes.
    most_bytes: int = 40_000_000
    # Beside the champion on scenes that are published, without a truth.
    #: Scenes without which nothing can be said; a catalog may be empty.
    least_shadow_scenes: int = 0
    #: Products that pass the quality gate with the champion and not with the challenger.
    most_shadow_refusals: int = 0
    #: Residual cloud of the challenger's products above that of the champion's, share of the restored pixels.
    most_shadow_cloud: float = 0.01
    #: Seam ratio and mean half-width of the challenger's products over those of the champion's.
    most_shadow_seams: float = 1.25
    most_shadow_width: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A challenger in figures, over the gaps of all cases."""

    #: PSNR above the champion's and above the best trivial filler's, dB; paired bootstrap over blocks, 95 %.
    gain: Interval
    trivial_gain: Interval
    #: The best trivial filler.
    trivial: str
    psnr: float
    #: Share of the values that lie inside their 90 % interval; NaN where none was compared.
    coverage: float
    #: Observed pixels that are not what was observed, bit by bit.
    changed_pixels: int
    #: Time over the champion's.
    time_ratio: float
    size_bytes: int
    #: SHA-256 over the cases: equal for comparisons that can be compared.
    cases: str

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        gain, trivial = self.gain, self.trivial_gain
        return (
            f"PSNR {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) dB over the champion and {trivial.mean:+.3f} "
            f"({trivial.low:+.3f} to {trivial.high:+.3f}) dB over {self.trivial}, {gain.images} blocks"
        )


def compared(champion: Evaluation, challenger: Evaluation) -> Comparison:
    """Return the figures of a challenger that was evaluated on the same cases as the champion."""
    trivial = challenger.best_trivial()
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    seconds = [sum(case.seconds for case in each.cases) for each in (champion, challenger)]
    return Comparison(
        gain=challenger.gain_over(Filler.DE, champion),
        trivial_gain=nothing if trivial is None else challenger.gain_over(trivial),
        trivial="a trivial filler" if trivial is None else str(trivial),
        psnr=challenger.psnr,
        coverage=challenger.coverage(Origin.MODEL).share,
        changed_pixels=sum(case.changed_pixels for case in challenger.cases),
        time_ratio=seconds[1] / seconds[0] if seconds[0] else math.nan,
        size_bytes=challenger.size_bytes,
        cases=challenger.digest,
    )


def judge(found: Comparison, gates: Gates, shadow: Shadow | None = None) -> Verdict:
    """Return the verdict on a challenger."""
    over = f"Mean gain in PSNR over {found.trivial} (dB)"
    checks = (
        Check("blocks", "Number of blocks compared", found.gain.images, gates.least_blocks, None),
        Check(
            "gain", "Lower end of the gain in PSNR over the champion (dB)", found.gain.low, gates.least_gain_db, None
        ),
        Check("trivial", over, found.trivial_gain.mean, gates.least_trivial_gain_db, None),
        Check("psnr", "PSNR (dB)", found.psnr, gates.least_psnr_db, None),
        Check("coverage", "Share inside the 90 % intervals", found.coverage, gates.least_coverage, gates.most_coverage),
        Check("fidelity", "Number of observed pixels changed", found.changed_pixels, None, gates.most_changed_pixels),
        Check("speed", "Time over the champion's", found.time_ratio, None, gates.most_time_ratio),
        Check("size", "Size of the weights (MB)", found.size_bytes / 1e6, None, gates.most_bytes / 1e6),
    )
    return Verdict(tuple(_decided(check) for check in (*checks, *_shadow_checks(shadow, gates))))


def _shadow_checks(shadow: Shadow | None, gates: Gates) -> tuple[Check, ...]:
    if shadow is None:
        return ()
    refused = "Number of products that only the challenger fails the quality gate with"
    checks = (
        Check(
            "shadow scenes", "Number of published scenes restored", len(shadow.scenes), gates.least_shadow_scenes, None
        ),
        Check("shadow refusals", refused, shadow.refusals, None, gates.most_shadow_refusals),
        Check(
            "shadow fidelity",
            "Number of observed pixels that differ",
            shadow.changed_pixels,
            None,
            gates.most_changed_pixels,
        ),
        Check("shadow cloud", "Residual cloud above the champion's", shadow.cloud_gain, None, gates.most_shadow_cloud),
        Check("shadow seams", "Seam ratio over the champion's", shadow.seam_ratio, None, gates.most_shadow_seams),
        Check("shadow width", "Half-width over the champion's", shadow.width_ratio, None, gates.most_shadow_width),
    )
    return checks if shadow.scenes else checks[:1]


def _decided(check: Check) -> Check:
    """Return the check; a figure that is NaN fails it."""
    if check.value is None or not math.isnan(check.value):
        return check
    return replace(check, value=-math.inf if check.lowest is not None else math.inf)


@dataclass(frozen=True, slots=True)
class ChampionComparison:
    """How an evaluation ended."""

    #: Versions.
    champion: str
    challenger: str
    comparison: Comparison
    #: None where no shadow run was made.
    shadow: Shadow | None
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """Return it as JSON values, with what every gate said; numbers may be infinite."""
        return asdict(self) | {"verdict": self.verdict.document()}
