"""Every field of the items that Unveil writes: its meaning, and whether an item of a kind is valid without it.

The reference page of item fields and the check before publishing (`stac.catalog.validation`) both come from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ItemKind(StrEnum):
    """Kinds of items, one per collection or group of collections."""

    PRODUCT = "product"
    MOSAIC = "mosaic"
    REGION = "region"
    MODEL = "model"


class Place(StrEnum):
    """Parts of an item that hold fields."""

    PROPERTIES = "properties"
    LINKS = "links"
    ASSETS = "assets"
    BANDS = "bands"


_PIXELS = (ItemKind.PRODUCT, ItemKind.MOSAIC)
_ALL = tuple(ItemKind)


@dataclass(frozen=True)
class Field:
    """One or several fields of one meaning.

    Attributes:
        names: as in the JSON; `view:*` stands for every name with that beginning; of a link, its `rel`.
        meaning: for a reader of the item, with unit.
        kinds: items that have it.
        place: part of the item.
        required_of: kinds of which an item without it is refused.
    """

    names: tuple[str, ...]
    meaning: str
    kinds: tuple[ItemKind, ...] = _PIXELS
    place: Place = Place.PROPERTIES
    required_of: tuple[ItemKind, ...] = ()


def _field(
    names: str,
    meaning: str,
    *kinds: ItemKind,
    place: Place = Place.PROPERTIES,
    required_of: tuple[ItemKind, ...] = (),
) -> Field:
    return Field(tuple(names.split()), meaning, kinds or _PIXELS, place, required_of)


def _required(names: str, meaning: str, *kinds: ItemKind) -> Field:
    return Field(tuple(names.split()), meaning, kinds or _PIXELS, required_of=kinds or _PIXELS)


_REGION, _MODEL, _PRODUCT, _MOSAIC = ItemKind.REGION, ItemKind.MODEL, ItemKind.PRODUCT, ItemKind.MOSAIC

FIELDS: tuple[Field, ...] = (
    _required("datetime", "of the acquisition that is restored; null where start and end say it", *_PIXELS, _REGION),
    _field("start_datetime end_datetime", "ends of the period", _MOSAIC, _REGION),
    _field("start_datetime end_datetime datetime", "when the training data are from, or the day of publishing", _MODEL),
    _field("created", "when the files were made", *_ALL, required_of=(*_PIXELS, _REGION)),
    _field("updated", "when the item was last changed", *_ALL),
    _field("title description", "cell and date in words", *_ALL),
    _field("keywords attribution", "of the source collection; our keywords added", *_PIXELS, _REGION),
    _field("license providers", "of the source collection, Unveil added as `processor`", *_ALL),
    _field("platform constellation instruments", "of the target scene; of a mosaic, what all its dates agree on"),
    _required("version", "counted from 1 within target and cell; of a model, its version in the registry", *_ALL),
    _field("deprecated", "true on all but the newest version"),
    _field("gsd", "metres per pixel; of a model, of the imagery it was trained on", *_PIXELS, _MODEL),
    _field(
        "proj:code",
        "EPSG code of the grid, which is that of the source; null where `proj:wkt2` defines it",
        *_PIXELS,
        _REGION,
        required_of=_PIXELS,
    ),
    _field("proj:wkt2", "definition of a grid without an EPSG code", *_PIXELS, _REGION),
    _field("proj:bbox", "edges of the grid, in its units"),
    _field("grid:code mgrs:*", "square of the source's grid in which the cell lies"),
    _field("view:*", "angles of the target scene, degrees, as far as its source has them", _PRODUCT),
    _field("eo:cloud_cover", "cloud cover of the target scene as its source declares it, percent", _PRODUCT),
    _required("renders", "views `visual`, `true-colour`, `provenance` (colours in full), `uncertainty`"),
    _field("processing:level", "L3", *_PIXELS, _REGION, required_of=_PIXELS),
    _field("processing:software", "versions of Unveil, torch and numpy", *_ALL, required_of=_PIXELS),
    _field("processing:lineage", "what was done: which composite, whether the model"),
    _field("processing:expression", "how a pixel comes about"),
    _field("sci:publications", "the paper of the method, preprint and journal", *_PIXELS, _MODEL),
    _required("unveil:work_id", "name of the work, which follows from its inputs", *_ALL),
    _required("unveil:target", "id of the scene that is restored; of a mosaic, that of `unveil:reference`"),
    _required("unveil:model", "name, version and SHA-256 of the weights", *_PIXELS, _MODEL),
    _required("unveil:seed", "seed of the diffusion"),
    _required("unveil:areas", "square kilometres per provenance class"),
    _required("unveil:quality", "figures of the product; see [The product](../product.md)"),
    _field("unveil:parameters", "settings on which pixels depend"),
    _field("unveil:fillers", "what filled each kind of gap that no date saw, and pixels of each"),
    _field("unveil:not_recoverable", "share of the valid area that could not be restored, percent"),
    _field("unveil:gate unveil:gate_reasons unveil:gate_limits", "verdict of the quality gate, why, and its limits"),
    _field("unveil:bands", "bands of the source that the mosaic has", _MOSAIC, _REGION),
    _field(
        "unveil:period", "as in the id: a dekad, month, season, year or range", _MOSAIC, _REGION, required_of=(_REGION,)
    ),
    _field("unveil:region", "name of the region", _MOSAIC, _REGION),
    _field("unveil:method", "how dates become one image", _MOSAIC, _REGION),
    _field("unveil:reference", "scene whose radiometry all dates are brought to", _MOSAIC, _REGION),
    _field("unveil:clear_looks", "minimum, maximum and mean of `count`, and pixels per count", _MOSAIC),
    _required("unveil:cells", "number of cells", _REGION),
    _required("bands", "in the order of the channels", _MODEL),
    _required("mlm:framework mlm:total_parameters", "PyTorch; parameters counted in the weights file", _MODEL),
    _field("mlm:framework_version mlm:architecture mlm:name", "of the networks", _MODEL),
    _field("mlm:memory_size", "of the weights as float32, bytes", _MODEL),
    _field("mlm:tasks", "`generative` and `regression`: the extension has no word for restoration", _MODEL),
    _field("mlm:input", "`scene` (batch, band, y, x), its clipping and companding; `needed` (batch, y, x)", _MODEL),
    _field("mlm:output", "`image`, `spread`, `reference_weight`", _MODEL),
    _field("mlm:hyperparameters", "preset, eta, time steps, and the options of training", _MODEL),
    _field("mlm:accelerator mlm:batch_size_suggestion", "none is needed; tiles per step", _MODEL),
    _field("mlm:pretrained mlm:pretrained_source", "true; what the weights were trained on", _MODEL),
    _field("self root parent collection", "places in the catalog", *_ALL, place=Place.LINKS),
    _field("derived_from", "every source item, and the item of the model", *_PIXELS, _REGION, place=Place.LINKS),
    _field("license", "of the source collection", *_PIXELS, _REGION, place=Place.LINKS),
    _field("cite-as", "the paper of the method", *_PIXELS, _MODEL, place=Place.LINKS),
    _field(
        "predecessor-version successor-version latest-version",
        "same target and cell made with another model or other parameters; kept right when one is retracted",
        place=Place.LINKS,
    ),
    _field("item", "cells of the region", _REGION, place=Place.LINKS),
    _field("file:size file:checksum", "bytes, and SHA-256 as a multihash", *_ALL, place=Place.ASSETS),
    _field("proj:shape proj:transform", "rows and columns; affine transform", *_PIXELS, _REGION, place=Place.ASSETS),
    _field("classification:classes", "classes of `provenance` with names and colours", place=Place.ASSETS),
    _field("raster:scale raster:offset", "reflectance = scale x value + offset", place=Place.ASSETS),
    _field("data_type nodata unit", "of the pixels", *_PIXELS, _REGION, place=Place.ASSETS),
    _field("mlm:artifact_type", "of the weights file", _MODEL, place=Place.ASSETS),
    _field("name description", "band of the source, in file order", *_ALL, place=Place.BANDS),
    _field("eo:common_name", "as eo 2.0 spells it (`rededge1` is `rededge071`)", place=Place.BANDS),
    _field("eo:center_wavelength eo:full_width_half_max", "micrometres", place=Place.BANDS),
    _field("data_type nodata unit raster:scale raster:offset", "of the band", *_PIXELS, _REGION, place=Place.BANDS),
    _field("statistics", "minimum, maximum, mean, stddev, valid_percent", *_PIXELS, _REGION, place=Place.BANDS),
    _field("classification:classes", "classes of `provenance`", place=Place.BANDS),
)


def required(kind: ItemKind) -> tuple[str, ...]:
    """Return the properties without which an item of a kind is refused."""
    return tuple(name for field in FIELDS if kind in field.required_of for name in field.names)
