"""Ablation `samplers`: which sampler needs how many steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table, in_words
from benchmarks.ablations.windows import Trial, Window, hold_out_windows, try_on
from benchmarks.chart import Panel, Series
from de_model import checkpoint
from de_model.inference.sampling import Sampling
from de_model.sampling.kinds import SamplerKind

#: Evaluations of the model per sample.
STEPS = (2, 4, 6, 10, 20)
_COLUMNS = (
    Column("sampler"),
    Column("steps"),
    Column("PSNR, dB", interval=True),
    Column("above DDIM-10, dB", 3, interval=True, signed=True),
    Column("spectrum error, dB", interval=True),
    Column("mean W"),
    Column("seconds per window"),
)


def run(setting: Setting) -> Findings:
    """Restore hold-out windows with every sampler at several numbers of steps.

    Raises:
        InvalidSettings: there are not so many windows.
        InvalidCheckpoint: the weights cannot be used.
    """
    windows = hold_out_windows(setting)
    trials = dict(_trials(setting, windows))
    standard = trials[SamplerKind.DDIM, 10]
    rows: list[tuple[Cell, ...]] = [
        (kind, steps, t.psnr, t.above(standard), t.spectrum, t.weight, t.seconds) for (kind, steps), t in trials.items()
    ]
    panels = (
        Panel("evaluations of the model", "PSNR on hidden pixels, dB", _series(trials, "psnr"), log_x=True),
        Panel("evaluations of the model", "spectrum error, dB", _series(trials, "spectrum"), log_x=True),
    )
    method = (
        f"{len(windows)} hold-out windows of {setting.side} px, one sample each, eta of the weights, equal noise for "
        f"every sampler. Scores on hidden pixels, mean over {len(standard.blocks)} blocks of 64 px with 95 % "
        "bootstrap intervals; the difference to DDIM-10 is paired, block by block. Seconds depend on what else the "
        "machine was doing."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(trials, standard))


def _trials(setting: Setting, windows: Sequence[Window]) -> Iterator[tuple[tuple[SamplerKind, int], Trial]]:
    enhancer = checkpoint.load(setting.weights)
    for kind in SamplerKind:
        for steps in STEPS:
            sampling = Sampling(setting.seed, 1, steps, enhancer.card.eta, setting.side, 0, sampler=kind)
            yield (kind, steps), try_on(windows, enhancer, sampling, name=f"{kind}, {steps} steps")


def _series(trials: dict[tuple[SamplerKind, int], Trial], figure: str) -> tuple[Series, ...]:
    return tuple(
        Series(kind, tuple(map(float, STEPS)), tuple(getattr(trials[kind, s], figure).mean for s in STEPS))
        for kind in SamplerKind
    )


def _seen(trials: dict[tuple[SamplerKind, int], Trial], standard: Trial) -> str:
    (kind, steps), best = max(trials.items(), key=lambda entry: entry[1].psnr.mean)
    cheap = [(s, k) for (k, s), t in trials.items() if not t.above(standard).high < 0]
    fewest, other = min(cheap)
    spread = best.psnr.mean - min(t.psnr.mean for t in trials.values())
    (sharp_kind, sharp_steps), sharp = min(trials.items(), key=lambda entry: entry[1].spectrum.mean)
    return (
        f"Best by PSNR is {kind} with {steps} steps, {in_words(best.above(standard), 3)} dB against "
        f"DDIM-10. The fewest evaluations that are not worse than "
        f"DDIM-10 are {fewest}, with {other}. All {len(trials)} ways lie within {spread:.2f} dB. PSNR favours blur: by "
        f"fine detail the best is {sharp_kind} with {sharp_steps} steps, {sharp.spectrum.mean:.2f} dB off, the "
        f"reference alone is {standard.reference_spectrum.mean:.2f} dB off."
    )
