"""STAC items of models, in the words of the machine learning model extension (MLM)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pystac
import shapely

from stac.grid.footprint import BBox
from stac.product.assets import common_name, file_asset
from stac.product.item import MODEL_EXTENSIONS, PUBLICATIONS, citations, first_version

MODELS_COLLECTION = "unveil-models"
WEIGHTS_FILE, CARD_FILE, TABLE_FILE = "weights.safetensors", "card.json", "calibration.json"
#: Nothing is known of the ground that a model was trained on, degrees.
_EVERYWHERE: BBox = (-180.0, -90.0, 180.0, 90.0)
_TASKS = ["generative", "regression"]
_ROOM = 12
_DIMENSIONS = ["batch", "band", "y", "x"]
_SPREAD = "Standard deviation over samples, reflectance; NaN where nothing was asked for."
_WEIGHT = "Share of the reference network, eta to 1; NaN where nothing was asked for."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What an item says about a version of a model."""

    name: str
    version: str
    #: Of the weights file.
    sha256: str
    #: Common names in the order of the channels.
    bands: tuple[str, ...]
    #: Ground sampling distance of the training imagery, metres.
    gsd_m: float
    architecture: str
    parameters: int
    #: Size of the weights in memory, bytes.
    memory_bytes: int
    #: Version of torch, as semantic versioning spells it.
    framework_version: str
    software_version: str
    #: How reflectance becomes network input, by name and as a formula.
    companding: str
    #: Sampling and training options; names as `[0-9a-zA-Z_.-]+`.
    hyperparameters: Mapping[str, Any]
    #: What it was trained on, for people.
    trained_on: str
    created: datetime
    #: First and last date of the training data, None where it is unknown.
    trained_between: tuple[datetime, datetime] | None = None
    licence: str = "Apache-2.0"


def model_item_id(name: str, sha256: str) -> str:
    """Return the id of a model's item: equal weights have one, whatever their number in a registry."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{sha256[:_ROOM]}"


def model_item_href(name: str, sha256: str) -> str:
    """Return where the item of a model is, relative to the item of a product in the same catalog."""
    item_id = model_item_id(name, sha256)
    return f"../../{MODELS_COLLECTION}/{item_id}/{item_id}.json"


def build_model_item(record: ModelRecord, folder: Path) -> pystac.Item:
    """Return the item of a model whose files lie in `folder`; hrefs are relative to the item.

    Args:
        record: what is known of it.
        folder: with `weights.safetensors`, `card.json`, and `calibration.json` where there is one.

    Raises:
        OSError: weights or card are missing.
    """
    first, last = record.trained_between or (record.created, record.created)
    item = pystac.Item(
        id=model_item_id(record.name, record.sha256),
        geometry=shapely.geometry.mapping(shapely.box(*_EVERYWHERE)),
        bbox=list(_EVERYWHERE),
        datetime=first,
        start_datetime=first,
        end_datetime=last,
        properties=_properties(record),
        stac_extensions=[str(extension) for extension in MODEL_EXTENSIONS],
    )
    for key, asset in _assets(folder, item.properties["bands"]).items():
        item.add_asset(key, asset)
    item.add_links(citations())
    return item


def _properties(record: ModelRecord) -> dict[str, Any]:
    return first_version(record.created) | {
        "title": f"{record.name}, version {record.version}",
        "description": f"Diffusion Enhancement weights for {', '.join(record.bands)}. Trained on {record.trained_on}.",
        "version": record.version,
        "license": record.licence,
        "gsd": record.gsd_m,
        "bands": [_band(name) for name in record.bands],
        "mlm:name": record.name,
        "mlm:architecture": record.architecture,
        "mlm:tasks": _TASKS,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": record.framework_version,
        "mlm:total_parameters": record.parameters,
        "mlm:memory_size": record.memory_bytes,
        "mlm:pretrained": True,
        "mlm:pretrained_source": record.trained_on or None,
        "mlm:accelerator": None,
        "mlm:batch_size_suggestion": 4,
        "mlm:input": _inputs(record),
        "mlm:output": _outputs(len(record.bands)),
        "mlm:hyperparameters": dict(record.hyperparameters),
        "processing:software": {"unveil-eo": record.software_version, "torch": record.framework_version},
        "sci:publications": list(PUBLICATIONS),
        "unveil:model": {"name": record.name, "version": record.version, "sha256": record.sha256},
        # Equal weights are the same work: publishing them again changes nothing.
        "unveil:work_id": f"model-{record.sha256}",
    }


def _band(name: str) -> dict[str, str]:
    known = common_name(name)
    return {"name": name, "description": f"Surface reflectance, {known or name}"}


def _inputs(record: ModelRecord) -> list[dict[str, Any]]:
    scene = {
        "name": "scene",
        "description": "Surface reflectance as observed, clouds included; NaN at nodata.",
        "bands": list(record.bands),
        "input": _tensor([-1, len(record.bands), -1, -1], "float32"),
        "value_scaling": [{"type": "clip", "minimum": 0, "maximum": 1}],
        "pre_processing_function": {"format": "text", "expression": f"companding {record.companding}, then 2 x - 1"},
    }
    needed = {
        "name": "needed",
        "description": "1 where a result is wanted, else 0.",
        "bands": [],
        "input": _tensor([-1, -1, -1], "uint8"),
    }
    return [scene, needed]


def _outputs(bands: int) -> list[dict[str, Any]]:
    image = "Surface reflectance: restored where needed, elsewhere the scene bit by bit."
    shapes = {"image": (image, [-1, bands, -1, -1]), "spread": (_SPREAD, [-1, bands, -1, -1])}
    shapes |= {"reference_weight": (_WEIGHT, [-1, -1, -1])}
    return [
        {"name": name, "description": text, "tasks": _TASKS, "result": _tensor(shape, "float32")}
        for name, (text, shape) in shapes.items()
    ]


def _tensor(shape: list[int], data_type: str) -> dict[str, Any]:
    order = _DIMENSIONS if len(shape) == 4 else [name for name in _DIMENSIONS if name != "band"]
    return {"shape": shape, "dim_order": order, "data_type": data_type}


def _assets(folder: Path, bands: list[dict[str, str]]) -> dict[str, pystac.Asset]:
    # STAC lets an item name bands only where an asset does; MLM asks for them in the item.
    weights, roles = {"mlm:artifact_type": "safetensors.torch.save_file", "bands": bands}, ["mlm:model", "mlm:weights"]
    file, kind = folder / WEIGHTS_FILE, "application/json"
    assets = {
        "weights": file_asset(file, "application/octet-stream", "Weights", roles, weights),
        "card": file_asset(folder / CARD_FILE, kind, "Model card", ["metadata"]),
    }
    if (table := folder / TABLE_FILE).is_file():
        assets["calibration"] = file_asset(table, kind, "Calibration of the 90 % intervals", ["metadata"])
    return assets
