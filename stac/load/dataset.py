"""Scenes as an `xr.Dataset`: bands and mask as variables with the dimensions `(time, y, x)`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import odc.geo.xr  # noqa: F401 - registers the accessor `.odc`
import pystac
import rioxarray  # noqa: F401 - registers the accessor `.rio`
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from stac.errors import InvalidInput
from stac.grid.assets import find_asset
from stac.grid.cell import Cell, unit_problem
from stac.load.reading import look_at
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.masks.classes import PixelClass
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE, to_product_dn, to_reflectance
from stac.search.acquisitions import group_passes
from stac.search.source import one_item

MASK = "mask"
#: Reflectance above this, as the median of a band, is not reflectance.
_BRIGHTEST_MEDIAN = 2.0
#: Floating point outside of this marks pixels that were not measured, such as -9999.
_REFLECTANCE_RANGE = -1.0, 10.0


def load_dataset(
    items: Sequence[pystac.Item], cell: Cell, bands: Sequence[str], options: ReadOptions, *, native: bool
) -> xr.Dataset:
    """Read scenes onto the pixels of a cell; scenes of one pass are one time.

    Args:
        items: the scenes.
        cell: where.
        bands: common names.
        options: masks, their growth, resampling, time-outs.
        native: uint16 digital numbers of reflectance / 1e-4 instead of float32 reflectance.

    Raises:
        InvalidItem, UnreadableAsset: a scene cannot be used or read.
    """
    passes = group_passes(items)
    found = stack_dataset(read_stack(passes, cell, bands, options), native=native)
    said = [" ".join(dict.fromkeys(radiometry_of(item, bands[0], options) for item in one.items)) for one in passes]
    return found.assign_coords(
        time=("time", [np.datetime64(one.instant.replace(tzinfo=None), "ns") for one in passes]),
        radiometry=("time", said),
        source=("time", [" ".join(item.get_self_href() or item.id for item in one.items) for one in passes]),
    )


def radiometry_of(scene: pystac.Item, band: str, options: ReadOptions) -> str:
    """Return scale and offset of a band of a scene in words, with the evidence for them; empty for a classification.

    Raises:
        InvalidItem, UnreadableAsset: item and file contradict each other, or the file cannot be read.
    """
    with one_item(scene.id):
        asset, drawn = find_asset(scene, band), options.interpolation.method
        decision = look_at(scene, band, asset, drawn, options.access).scaling
    return "" if decision is None else f"scale {decision.scale:g}, offset {decision.offset:g}: {decision.reason}"


def stack_dataset(stack: Stack, *, native: bool) -> xr.Dataset:
    """Return a stack as a Dataset; digital numbers and classes are views of its arrays."""
    bands = {band: stack.dn[:, index] for index, band in enumerate(stack.bands)}
    variables = {
        band: (("time", "y", "x"), dn if native else to_reflectance(dn), band_attributes(native=native))
        for band, dn in bands.items()
    }
    mask = (("time", "y", "x"), stack.classes, flags(PixelClass) | {"long_name": "cloud mask"})
    times = stack.days.astype("datetime64[D]").astype("datetime64[ns]")
    coordinates = {"time": times, "item_id": ("time", list(stack.item_ids))}
    attributes = {"cell": stack.cell.id} | ({"dropped": list(stack.dropped)} if stack.dropped else {})
    return on_grid(xr.Dataset(variables | {MASK: mask}, coordinates, attributes), stack.cell.geobox)


def completed(dataset: xr.Dataset, bands: Sequence[str] | None = None) -> xr.Dataset:
    """Return a Dataset of a user's own with all that one of `load` has; what is there stays.

    Args:
        dataset: bands on `(time, y, x)`, and `mask`: classes as `load` returns them, or true where cloud or shadow
            hides the ground.
        bands: those that are needed, in this order; others are left out. None keeps all.

    Returns:
        The Dataset, rows from north to south.

    Raises:
        InvalidInput: a band, the mask, the times or a grid in metres are missing, or values are not reflectance.
    """
    wanted = [str(name) for name in dataset.data_vars if name != MASK] if bands is None else [*bands]
    missing = [name for name in (*wanted, MASK, "time") if name not in dataset.variables]
    if missing:
        raise InvalidInput(
            f"The dataset has {', '.join(sorted(map(str, dataset.variables)))}, but lacks {', '.join(missing)}; "
            "expected bands and `mask`, true where cloud or shadow hides the ground, on (time, y, x)."
        )
    _require_dimensions(dataset, wanted)
    found = _dated(dataset[[*wanted, MASK]].transpose("time", "y", "x", ...))
    if problem := unit_problem(geobox_of(found)):
        raise InvalidInput(f"The dataset: {problem}; reproject it to a projection in metres, such as UTM.")
    for name in wanted:
        _require_reflectance(found[name])
    if len({found[name].dtype == np.uint16 for name in wanted}) > 1:
        kinds = ", ".join(f"{name} {found[name].dtype}" for name in wanted)
        raise InvalidInput(f"Bands hold reflectance and digital numbers side by side ({kinds}); give all as one.")
    if "item_id" not in found.coords:
        days = found["time"].values.astype("datetime64[D]").astype(str)
        found = found.assign_coords(item_id=("time", [f"scene-{day.replace('-', '')}" for day in days]))
    values = (found[name].values for name in wanted)
    measured = np.logical_and.reduce([v > 0 if v.dtype == np.uint16 else np.isfinite(v) for v in values])
    if found[MASK].dtype == bool:
        hidden = np.where(found[MASK].values, PixelClass.CLOUD, PixelClass.CLEAR)
        classes = np.where(measured, hidden, PixelClass.NODATA).astype(np.uint8)
        found[MASK] = (("time", "y", "x"), classes, flags(PixelClass) | {"long_name": "cloud mask"})
    else:
        require_classes(found[MASK], measured)
    return found if found["y"][0] >= found["y"][-1] else found.isel(y=slice(None, None, -1))


def _require_dimensions(dataset: xr.Dataset, bands: Sequence[str]) -> None:
    for name in bands:
        if set(dataset[name].dims) != {"time", "y", "x"}:
            raise InvalidInput(
                f"Band {name} has the dimensions {dataset[name].dims}, not (time, y, x); drop it where it is not a "
                'band, and keep one date with scenes.sel(time=["2023-08-18"]).'
            )


def _dated(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose times are `datetime64`; text is read."""
    times = dataset["time"].values
    if times.dtype.kind == "U":
        try:
            times = times.astype("datetime64[ns]")
        except ValueError as error:
            raise InvalidInput(f"`time` cannot be read ({error}); write dates such as 2023-08-18.") from error
    if times.dtype.kind != "M" or np.isnat(times).any():
        what = "an empty date" if times.dtype.kind == "M" else f"{times.dtype}, such as {times.ravel()[:1]}"
        raise InvalidInput(f"`time` holds {what}; give every scene its date as datetime64 in UTC, without a time zone.")
    return dataset.assign_coords(time=times)


def require_classes(mask: xr.DataArray, measured: NDArray[np.bool_]) -> None:
    """Raise `InvalidInput` unless a mask of numbers holds classes as load() returns them.

    Attributes outlive comparisons, so that zeros and ones may call themselves classes.

    Args:
        mask: of numbers.
        measured: where all bands have values, same shape.
    """
    known = mask.attrs.get("flag_meanings") == flags(PixelClass)["flag_meanings"]
    unseen = mask.values == PixelClass.NODATA
    contradicted = unseen.any() and mask.values.max() <= PixelClass.CLEAR and measured[unseen].mean() > 0.5
    if not known or contradicted:
        why = "whose zeros would be nodata where bands have values" if known else "without the flag_meanings of load()"
        raise InvalidInput(
            f"`mask` holds {mask.dtype} {why}, so its values are not known; give "
            "booleans, true where cloud or shadow hides the ground, such as mask == 1."
        )


def _require_reflectance(band: xr.DataArray) -> None:
    """Raise `InvalidInput` unless a band holds reflectance from 0 to 1, or load()'s digital numbers of it."""
    if band.dtype.kind != "f" and band.dtype != np.uint16:
        raise InvalidInput(
            f"Band {band.name} holds {band.dtype}; give reflectance from 0 to 1 as floating point, NaN where nothing "
            "was measured, or uint16 digital numbers of reflectance / 0.0001 with 0 for nodata."
        )
    values = band.values[np.isfinite(band.values)]
    median = float(np.median(values)) if values.size else 0.0
    if median * (1 if band.dtype.kind == "f" else PRODUCT_SCALE) > _BRIGHTEST_MEDIAN:
        raise InvalidInput(
            f"Half of band {band.name} lies above {_BRIGHTEST_MEDIAN:g}, so it is not reflectance from 0 to 1; divide "
            "digital numbers by their scale, such as 10 000."
        )
    least, most = _REFLECTANCE_RANGE
    strange = values[(values < least) | (values > most)] if band.dtype.kind == "f" else values[:0]
    if strange.size:
        raise InvalidInput(
            f"Band {band.name} holds {strange[0]:g}, which is not reflectance from 0 to 1; where it stands for nodata "
            f"make it NaN, such as {band.name}.where({band.name} > -1)."
        )


def dataset_stack(dataset: xr.Dataset) -> Stack:
    """Return the stack that a Dataset of `load` holds, whole or a part of it.

    Raises:
        InvalidInput: variables, dimensions or the grid are missing.
    """
    bands = tuple(str(name) for name in dataset.data_vars if name != MASK)
    if MASK not in dataset or not bands or dataset[MASK].dims != ("time", "y", "x"):
        raise InvalidInput(
            f"The dataset has {sorted(map(str, dataset.variables))} with dimensions {tuple(dataset.dims)}; expected "
            "bands and `mask` on (time, y, x), as load() returns them."
        )
    pixels = np.stack([dataset[band].values for band in bands], axis=1)
    return Stack(
        # Contiguous: layers are written through flat views, which arrays of another layout do not have.
        dn=np.ascontiguousarray(pixels if pixels.dtype == np.uint16 else to_product_dn(pixels)),
        classes=np.ascontiguousarray(dataset[MASK].values),
        item_ids=tuple(str(name) for name in dataset["item_id"].values),
        days=dataset["time"].values.astype("datetime64[D]").astype(np.int32),
        bands=bands,
        cell=Cell(str(dataset.attrs.get("cell", "")), geobox_of(dataset)),
    )


def on_grid(dataset: xr.Dataset, geobox: GeoBox) -> xr.Dataset:
    """Return a Dataset with the coordinates `y`, `x` and `spatial_ref` of a pixel grid."""
    axes = {name: (name, axis.values, {"units": axis.units}) for name, axis in geobox.coordinates.items()}
    located = dataset.assign_coords({name: axes[dim] for name, dim in zip(("y", "x"), geobox.dimensions, strict=True)})
    placed: xr.Dataset = located.rio.write_crs(geobox.crs.to_wkt()).rio.write_transform(geobox.affine)
    return placed


def geobox_of(dataset: xr.Dataset) -> GeoBox:
    """Return the pixel grid of a Dataset.

    Raises:
        InvalidInput: it has none, or its coordinates skip pixels.
    """
    geobox = dataset.odc.geobox
    if not isinstance(geobox, GeoBox):
        raise InvalidInput("The dataset has no pixel grid; keep its coordinates y, x and spatial_ref.")
    for name, axis in zip(("y", "x"), geobox.coordinates.values(), strict=True):
        given = dataset[name].values if name in dataset.coords else axis.values
        wrong = np.flatnonzero(np.abs(given - axis.values) > abs(axis.resolution) / 2)
        if wrong.size:
            at = wrong[0]
            raise InvalidInput(
                f"Coordinate {name} is {given[at]:g} where pixels of {axis.resolution:g} would be at "
                f"{axis.values[at]:g}; give pixels of one size without gaps, such as dataset.reindex({name}=...)."
            )
    return geobox


def band_attributes(*, native: bool) -> dict[str, object]:
    """Return the attributes of a band of reflectance or, native, of its digital numbers."""
    name = {"standard_name": "surface_bidirectional_reflectance", "units": "1"}
    stored = {"scale_factor": PRODUCT_SCALE, "add_offset": 0.0, "_FillValue": np.uint16(PRODUCT_NODATA)}
    return name | (stored if native else {})


def flags(kinds: type[IntEnum]) -> dict[str, object]:
    """Return the CF attributes of a variable whose values are those of an enumeration."""
    meanings = " ".join(kind.name.lower() for kind in kinds)
    return {"flag_values": np.array([int(kind) for kind in kinds], np.uint8), "flag_meanings": meanings}


def date_of(dataset: xr.Dataset, target: str) -> int:
    """Return the position in time of a date (`2023-08-18`) or of an item's id.

    Raises:
        InvalidInput: no time or several are meant.
    """
    days, ids = dataset["time"].values.astype("datetime64[D]").astype(str), dataset["item_id"].values
    found = np.flatnonzero((days == target) | (ids == target))
    if len(found) != 1:
        has = ", ".join(f"{day} ({name})" for day, name in zip(days, ids, strict=True))
        raise InvalidInput(f"Target {target!r} names {len(found)} of the dates; name one of {has} by date or id.")
    return int(found[0])
