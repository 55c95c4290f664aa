"""What a challenger must show before it makes mosaics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from flows.errors import InvalidSettings
from flows.models.contest import Contest
from flows.models.shadow import Shadow
from stac.quality.gate import Check, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits; the defaults let a challenger pass that is not worse than the champion."""

    # Against the truth of the contest.
    #: A challenger whose gain in PSNR may be lower than this is refused: the lower end of its interval, dB.
    least_gain_db: float = -0.02
    #: Mean PSNR over blocks that a challenger must reach whatever the champion does, dB.
    least_psnr_db: float = 20.0
    #: Share of the values that must lie inside their 90 % intervals, at least and at most. Real change between the
    #: dates counts against the model: the shipped one has 0.875 on real pairs (docs/results/product.md).
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


def judge(contest: Contest, gates: Gates, shadow: Shadow | None = None) -> Verdict:
    """Return the verdict on a challenger.

    Args:
        contest: against the champion, with a known truth.
        gates: the limits.
        shadow: beside the champion on published scenes; None where no such run was made.
    """
    gain, new = contest.gain, contest.challenger
    checks = (
        Check("blocks", "Number of blocks compared", gain.images, gates.least_blocks, None),
        Check("gain", "Lower end of the gain in PSNR over the champion (dB)", gain.low, gates.least_gain_db, None),
        Check("psnr", "PSNR (dB)", new.psnr, gates.least_psnr_db, None),
        Check("coverage", "Share inside the 90 % intervals", new.coverage, gates.least_coverage, gates.most_coverage),
        Check("fidelity", "Number of observed pixels changed", new.changed_pixels, None, gates.most_changed_pixels),
        Check("speed", "Time over the champion's", contest.time_ratio, None, gates.most_time_ratio),
        Check("size", "Size of the weights (MB)", new.size_bytes / 1e6, None, gates.most_bytes / 1e6),
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
    """Return the check so that a figure that came out as no number fails: nothing speaks for such a challenger."""
    if check.value is None or not math.isnan(check.value):
        return check
    return replace(check, value=-math.inf if check.lowest is not None else math.inf)


def load_gates(path: Path | None) -> Gates:
    """Return the gates of a YAML file; the defaults without one.

    Raises:
        InvalidSettings: the file cannot be read, or a name or value in it is wrong.
    """
    if path is None:
        return Gates()
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
        unknown = set(values) - set(Gates.__dataclass_fields__)
        if unknown:
            known = ", ".join(Gates.__dataclass_fields__)
            raise InvalidSettings(f"{path}: gate {min(unknown)} is unknown; known are {known}.")
        found: Gates = TypeAdapter(Gates).validate_python(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidSettings(
            f"{path} holds no gates ({reason}); write lines such as `least_gain_db: 0.05`."
        ) from error
    return found
