"""Products as an `xr.Dataset`: the layers as variables with the dimensions `(y, x)`."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pystac
import xarray as xr

from stac.composite.methods import CompositeMethod, fit_composite
from stac.errors import InvalidInput
from stac.io.files import require_nameable, write_json, writing
from stac.load.dataset import band_attributes, completed, dataset_stack, date_of, flags, geobox_of, on_grid
from stac.load.stack import Stack
from stac.masks.classes import is_hidden
from stac.product.item import ProductRecord, build_item
from stac.product.layers import SOURCE_DATE_NODATA, ModelResult, ProductLayers, Provenance, assemble
from stac.product.writer import write_product
from stac.reflectance import to_product_dn, to_reflectance

#: Layers beside the bands.
PROVENANCE, SOURCE_DATE, WEIGHT, UNCERTAINTY = "provenance", "source_date", "reference_weight", "uncertainty"
_LAYERS = (PROVENANCE, SOURCE_DATE, WEIGHT, UNCERTAINTY)
#: How the ids of products end.
_IS_PRODUCT = re.compile(r"-(unveil|composite)-[0-9a-f]{8}$")


def layers_dataset(layers: ProductLayers, *, native: bool) -> xr.Dataset:
    """Return the layers of a product as a Dataset.

    Args:
        layers: of a whole product or a window of it.
        native: uint16 digital numbers of reflectance / 1e-4 instead of float32 reflectance.
    """
    plane, attributes = ("y", "x"), band_attributes(native=native)
    variables = {
        band: (plane, dn if native else to_reflectance(dn), attributes)
        for band, dn in zip(layers.bands, layers.data, strict=True)
    }
    since = {"units": "days since 1970-01-01", "_FillValue": np.int32(SOURCE_DATE_NODATA)}
    others = {
        PROVENANCE: (plane, layers.provenance, flags(Provenance) | {"long_name": "where each pixel comes from"}),
        SOURCE_DATE: (plane, layers.source_date, since | {"long_name": "acquisition that saw each pixel"}),
        WEIGHT: (plane, layers.reference_weight, {"units": "1", "long_name": "share of the reference"}),
        UNCERTAINTY: (("band", *plane), layers.uncertainty, {"units": "1", "long_name": "90 % half-width"}),
    }
    return on_grid(xr.Dataset(variables | others, {"band": list(layers.bands)}), layers.geobox)


def dataset_layers(dataset: xr.Dataset) -> ProductLayers:
    """Return the layers that a Dataset of `composite` holds.

    Raises:
        InvalidInput: a layer or the grid is missing.
    """
    missing = [name for name in _LAYERS if name not in dataset]
    if missing:
        raise InvalidInput(f"The dataset lacks {', '.join(missing)}; expected all layers that composite() returns.")
    bands = tuple(str(name) for name in dataset["band"].values)
    if lost := [name for name in bands if name not in dataset]:
        raise InvalidInput(f"The dataset lacks {', '.join(lost)}; expected all bands that composite() returns.")
    if dataset[PROVENANCE].ndim != 2:
        dims = dataset[PROVENANCE].dims
        raise InvalidInput(f"The dataset has the dimensions {dims}, not (y, x); give one product at a time.")
    pixels = np.stack([dataset[band].values for band in bands])
    return ProductLayers(
        pixels if pixels.dtype == np.uint16 else to_product_dn(pixels),
        dataset[PROVENANCE].values.astype(np.uint8),
        dataset[SOURCE_DATE].values.astype(np.int32),
        dataset[WEIGHT].values.astype(np.float32),
        dataset[UNCERTAINTY].values.astype(np.float32),
        geobox_of(dataset),
        bands,
    )


def composite_dataset(dataset: xr.Dataset, target: str, method: str, max_days: int | None) -> xr.Dataset:
    """Fill one date from the others; arguments and errors are those of `stac.api.composite`."""
    if method not in set(CompositeMethod):
        raise InvalidInput(f"Method {method!r} is not known; choose one of {', '.join(CompositeMethod)}.")
    dataset = completed(dataset)
    stack, index = dataset_stack(dataset), date_of(dataset, target)
    composite = fit_composite(CompositeMethod(method), stack, index, max_days=max_days)
    found = None if composite is None else composite.apply(stack, index, where=is_hidden(stack.classes[index]))
    unknown = np.full(stack.dn.shape[1:], np.nan, np.float32)
    layers = assemble(stack, index, found, ModelResult(unknown, unknown[0], unknown))
    product = layers_dataset(layers, native=dataset[stack.bands[0]].dtype == np.uint16)
    return described(product, dataset, stack, index, {"composite": method, "composite_days": max_days})


def described(
    product: xr.Dataset,
    scenes: xr.Dataset,
    stack: Stack,
    index: int,
    parameters: Mapping[str, object],
    model: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Return a product that says what it was made of, as attributes of JSON values.

    Args:
        product: its layers.
        scenes: the Dataset that was restored.
        stack: the same as a stack.
        index: of the date that was restored.
        parameters: all that pixels depend on.
        model: name, version, sha256, seed and fillers of the model; None where none was used.
    """
    dates = [index, *(date for date in range(len(stack.item_ids)) if date != index)]
    days = stack.days.astype("datetime64[D]").astype(str)
    return product.assign_attrs(
        cell=stack.cell.id,
        target=stack.item_ids[index],
        datetime=f"{scenes['time'].values[index].astype('datetime64[s]')}Z",
        dates=[str(days[date]) for date in dates],
        other_dates=[stack.item_ids[date] for date in dates[1:]],
        sources=[str(scenes["source"].values[date]) for date in dates] if "source" in scenes.coords else [],
        parameters=json.dumps(parameters),
        model=json.dumps(model or {}),
    )


def write_dataset(product: xr.Dataset, folder: Path) -> pystac.Item:
    """Write a product; arguments and errors are those of `stac.api.write`."""
    layers = dataset_layers(product)
    record = dataset_record(product, layers)
    require_nameable(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (other := _other_product(folder, record.item_id)) is not None:
        raise InvalidInput(
            f"Folder {folder} holds the files of {other}, which {record.item_id} would replace; give each product a "
            "folder of its own."
        )
    item = build_item(record, write_product([layers], layers.geobox, layers.bands, None, folder), folder)
    write_json(folder / f"{item.id}.json", item.to_dict(include_self_link=False, transform_hrefs=False))
    item.set_self_href(str(folder.absolute() / f"{item.id}.json"))
    item.make_asset_hrefs_absolute()
    return item


def _other_product(folder: Path, item_id: str) -> str | None:
    """Return the id of a product in a folder that is another one; None where there is none."""
    names = sorted(path.stem for path in folder.glob("*.json"))
    return next((name for name in names if _IS_PRODUCT.search(name) and name != item_id), None)


def dataset_record(product: xr.Dataset, layers: ProductLayers) -> ProductRecord:
    """Return what the item of a product says of how it was made; its ids follow from that and from its pixels.

    Raises:
        InvalidInput: the dataset is not one of `composite`.
    """
    said = product.attrs
    if not {"target", "datetime", "parameters"} <= set(said):
        raise InvalidInput("The dataset does not say which date it restores; keep the attributes of composite().")
    target, *others = _scenes(product)
    geobox, bands = geobox_of(product), [str(name) for name in product["band"].values]
    grid = (geobox.crs.to_wkt(), *geobox.affine, *geobox.shape)
    model = json.loads(said.get("model", "{}"))
    made_of = [target.id, *(scene.id for scene in others), said["parameters"], bands, grid]
    made_of += [model["sha256"]] if model else []
    # Scenes of a user's own have no versions: pixels say whether the mask or the product was changed.
    made_of += [_checksum(layers)]
    work_id = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(made_of)))
    return ProductRecord(
        item_id=f"{target.id}-{'unveil' if model else 'composite'}-{work_id[:8]}",
        work_id=work_id,
        target=target,
        source_dates=tuple(others),
        cell_id=said.get("cell", ""),
        parameters=json.loads(said["parameters"]),
        quality={},
        software_version=version("unveil-eo"),
        created=datetime.now(UTC),
        model_name=str(model.get("name", "none")),
        model_version=str(model.get("version", "")),
        model_sha256=str(model.get("sha256", "")),
        seed=model.get("seed", 0),
        fillers=model.get("fillers", {}),
    )


def _checksum(layers: ProductLayers) -> str:
    found = hashlib.sha256()
    for plane in (layers.data, layers.provenance, layers.source_date, layers.reference_weight, layers.uncertainty):
        found.update(np.ascontiguousarray(plane).tobytes())
    return found.hexdigest()


def _scenes(product: xr.Dataset) -> Sequence[pystac.Item]:
    """Return the target and the other dates of a product, under the addresses that they were found at."""
    said, moment = product.attrs, datetime.fromisoformat(product.attrs["datetime"])
    ids = [said["target"], *said.get("other_dates", ())]
    scenes = [pystac.Item(str(name), None, None, moment, {}) for name in ids]
    for scene, source in zip(scenes, said.get("sources", ()), strict=False):
        scene.set_self_href(source.split()[0])
    return scenes
