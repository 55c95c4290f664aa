"""Unveil in a notebook: search, load, composite, restore, compare, evaluate, write, publish.

    from flows.api import load, restore, search, write

    items = search("earth-search", "sentinel-2-l2a", "2023-08-10/2023-08-20", bbox=(15.5, 46.1, 15.6, 46.2))
    scenes = load(items, bbox=(15.5, 46.1, 15.6, 46.2))
    product = restore(scenes, "2023-08-18")
    write(product, "product")

Each function takes and gives an `xr.Dataset`. None of them needs or starts Prefect, MLflow or a ledger; libraries are
imported by the function that needs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stac.api import composite, load, search, write

if TYPE_CHECKING:
    import numpy as np
    import pystac
    import xarray as xr
    from numpy.typing import NDArray

    from de_model.card import ModelCard
    from flows.reports.page import Slider

__all__ = ["compare", "composite", "evaluate", "load", "publish", "restore", "search", "write"]


def restore(
    scenes: xr.Dataset,
    target: str,
    *,
    weights: str | Path | None = None,
    method: str = "fused",
    max_days: int | None = 15,
    gaps: Literal["validated", "model"] = "validated",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Restore all that clouds and shadows hide on one date: from other dates, and where no date saw it by the model.

    Args:
        scenes: of `load`, or of your own: reflectance (0 to 1, NaN where nothing was measured) of the model's bands on
            `(time, y, x)`, and `mask`, true where cloud or shadow hides the ground; with a CRS in metres.
        target: the date, `2023-08-18`, or the item's id.
        weights: a safetensors file of `unveil train`; None takes the shipped ones (blue, green, red, nir).
        method: composite of the other dates: `fused`, `nearest`, `median`, `geomedian`, or `none` for the model alone.
        max_days: dates further away are not used; None uses all.
        gaps: what fills ground that no date saw: `validated`, for every kind of pixel the filler that was best on
            places the model never saw; or `model`, always the model.
        seed: of the noise. The same input and seed give the same pixels on a CPU.
        device: `auto` takes a GPU where there is one.
        progress: show a bar.

    Returns:
        What `composite` returns, with the gaps filled. Read `provenance` before measuring.

    Raises:
        InvalidInput: the dataset lacks a band, the mask or the grid, or the target is not one of its dates.
        InvalidCheckpoint: the weights are missing, damaged, or not a model.
        InvalidSettings: `gaps`, `seed`, `max_days` or `device` is out of range; `cuda` without a GPU.
    """
    from de_model import checkpoint
    from flows.errors import InvalidSettings
    from flows.processing.model import load_model
    from flows.processing.restore import restore_date
    from flows.settings.fields import Device
    from stac.load.dataset import completed, dataset_stack, date_of
    from stac.product.dataset import described, layers_dataset

    if device not in set(Device):
        raise InvalidSettings(f"Device {device!r} is not known; choose one of {', '.join(Device)}.")
    file = Path(weights) if weights is not None else checkpoint.shipped_weights()
    card, digest = checkpoint.read_card(file), checkpoint.sha256_of(file)
    dataset = completed(scenes, card.bands)
    stack, index = dataset_stack(dataset), date_of(dataset, target)
    options, parameters = _options(file, card, method=method, max_days=max_days, gaps=gaps, seed=seed)
    with _bar(f"Restoring {stack.item_ids[index]}", shown=progress) as on_tile:
        restored = restore_date(stack, index, load_model(str(file), digest, Device(device)), options, on_tile)
    product = layers_dataset(restored.layers, native=dataset[card.bands[0]].dtype == "uint16")
    model = {"name": file.stem, "version": "", "sha256": digest, "seed": seed}
    model |= {"fillers": {str(kind): str(filler) for kind, filler in options.fillers.items()}}
    return described(product, dataset, stack, index, parameters, model)


def _options(
    weights: Path, card: ModelCard, *, method: str, max_days: int | None, gaps: str, seed: int
) -> tuple[Any, dict[str, Any]]:
    """Return how weights restore a date, and the parameters that pixels depend on, as JSON values."""
    from de_model.inference.sampling import sampling_for
    from flows.processing.restore import measured_options
    from flows.settings.loading import validated
    from flows.settings.restoring import RestoringSettings
    from stac.composite.methods import CompositeMethod
    from stac.errors import InvalidInput

    if method not in set(CompositeMethod):
        raise InvalidInput(f"Method {method!r} is not known; choose one of {', '.join(CompositeMethod)}.")
    days = max_days if max_days is not None else 1_000_000
    settings = validated(RestoringSettings, {"composite": method, "composite_days": days, "gaps": gaps, "seed": seed})
    options = measured_options(settings.fitted_to(sampling_for(card)).restoration, weights, settings.gaps)
    return options, {"composite": method, "composite_days": max_days, "gaps": gaps} | asdict(options.sampling)


@contextmanager
def _bar(text: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, in a notebook as in a terminal; yields what takes (done, total)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets a notebook has a bar of text, which is enough
        from tqdm.auto import tqdm

    with tqdm(desc=text, unit="tile", disable=not shown) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


def evaluate(product: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Compare restored pixels with a truth, beside the trivial ways to fill them.

    Args:
        product: of `restore` or `composite`.
        truth: the same bands on the same grid `(y, x)`, reflectance; NaN, and what its `mask` does not call clear, is
            left out.

    Returns:
        `mae`, `bias`, `rmse` (reflectance, all bands together), `psnr` (dB, of a range of 1) and `coverage` (share of
        the truth inside the 90 % intervals, of the product only) by `filler` and `provenance`; `pixels` by
        `provenance`. Fillers are the `product`, the `flat` median colour of the observed ground, and its
        `interpolation` (normalised convolution). `restored` of `provenance` is all restored classes together.

    Raises:
        InvalidInput: a band is missing, or the grids differ.
    """
    import numpy as np
    import xarray as xr

    from de_model.metrics.baselines import flat_colour, interpolated
    from stac.product.dataset import dataset_layers
    from stac.product.layers import RESTORED, Provenance
    from stac.reflectance import to_reflectance

    layers = dataset_layers(product)
    image, real = to_reflectance(layers.data), _truth(truth, layers.bands, layers.provenance.shape)
    observed = layers.provenance == Provenance.OBSERVED
    level = flat_colour(image, observed)
    fillers = {
        "product": image,
        "flat": np.broadcast_to(np.array(level, np.float32)[:, None, None], image.shape),
        "interpolation": interpolated(image, observed, level).image,
    }
    usable = np.isfinite(real).all(axis=0) & np.isfinite(image).all(axis=0)
    classes = {p.name.lower(): (layers.provenance == p) & usable for p in RESTORED}
    classes = {"restored": np.logical_or.reduce([*classes.values()])} | classes
    inside = np.abs(image - real) <= layers.uncertainty
    figures = np.array([[_figures(filled - real, where) for where in classes.values()] for filled in fillers.values()])
    missing = [float("nan")] * len(classes)
    covered = [float(inside[:, where].mean()) if where.any() else float("nan") for where in classes.values()]
    axes = ("filler", "provenance")
    return xr.Dataset(
        {name: (axes, figures[..., number]) for number, name in enumerate(("mae", "bias", "rmse", "psnr"))}
        | {"coverage": (axes, np.array([covered, missing, missing]))}
        | {"pixels": ("provenance", [int(where.sum()) for where in classes.values()])},
        {"filler": list(fillers), "provenance": list(classes)},
    )


def _figures(error: NDArray[np.float32], where: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return MAE, bias, RMSE and PSNR of errors `(band, y, x)` over some pixels `(y, x)`; NaN over none."""
    import numpy as np

    if not where.any():
        return (float("nan"),) * 4
    chosen = error[:, where].astype(np.float64)
    rmse = float(np.sqrt((chosen**2).mean()))
    return float(np.abs(chosen).mean()), float(chosen.mean()), rmse, float(-20 * np.log10(max(rmse, 1e-6)))


def _truth(truth: xr.Dataset, bands: tuple[str, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the truth as reflectance `(band, y, x)`, NaN where it is not known."""
    import numpy as np

    from stac.errors import InvalidInput
    from stac.load.dataset import MASK, require_classes
    from stac.masks.classes import is_observed
    from stac.reflectance import to_reflectance

    missing = [band for band in bands if band not in truth]
    if missing or truth[bands[0]].shape != shape:
        has = f"lacks {', '.join(missing)}" if missing else f"has {truth[bands[0]].shape} pixels, the product {shape}"
        raise InvalidInput(f"The truth {has}; give one date, the same bands and the same grid.")
    image = np.stack([truth[band].values for band in bands])
    image = to_reflectance(image) if image.dtype == np.uint16 else image.astype(np.float32)
    if MASK in truth:
        mask = truth[MASK]
        if mask.dtype != bool:
            require_classes(mask, np.logical_and.reduce(np.isfinite(image)))
        seen = ~mask.values if mask.dtype == bool else is_observed(mask.values)
        image = np.where(seen, image, np.float32(np.nan))
    return image


def compare(before: xr.Dataset, after: xr.Dataset, *, width: int = 520) -> Slider:
    """Show two images of one place over each other: the second one right of the pointer.

    Args:
        before: `red`, `green` and `blue` on `(y, x)`, reflectance; of `load`, one date.
        after: likewise; of `restore` or `composite`.
        width: pixels.

    Raises:
        InvalidInput: a colour is missing, or an image has a time axis.
    """
    from flows.reports.page import slider

    return slider(before, after, width)


def publish(product: xr.Dataset, catalog: str | Path, *, gate: bool = True) -> pystac.Item:
    """Publish a product to a static STAC catalog, as runs do: measured, judged, whole or not at all.

    Args:
        product: of `restore` or `composite`.
        catalog: folder of the catalog; made where there is none. `unveil serve --out FOLDER` shows it.
        gate: a product that fails a threshold of the quality gate goes to the collection `unveil-review`.

    Returns:
        The published item.

    Raises:
        InvalidInput: the dataset is not a product.
        InvalidProduct: what was written does not pass the check of the catalog.
        DiskFull, NotWritable: the catalog cannot be written; it is as it was.
    """
    import pystac

    from flows.processing.datasets import publish_dataset

    return pystac.Item.from_file(str(publish_dataset(product, Path(catalog), judged=gate)))
