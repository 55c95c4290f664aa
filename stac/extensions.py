"""The STAC extensions that our documents use. Their official schemas come with the package (`stac/schemas`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum, unique
from typing import Any

_SCHEMAS = "https://stac-extensions.github.io"


@unique
class Extension(StrEnum):
    """Identifiers as `stac_extensions` lists them."""

    PROJECTION = f"{_SCHEMAS}/projection/v2.0.0/schema.json"
    RASTER = f"{_SCHEMAS}/raster/v2.0.0/schema.json"
    EO = f"{_SCHEMAS}/eo/v2.0.0/schema.json"
    FILE = f"{_SCHEMAS}/file/v2.1.0/schema.json"
    CLASSIFICATION = f"{_SCHEMAS}/classification/v2.0.0/schema.json"
    PROCESSING = f"{_SCHEMAS}/processing/v1.1.0/schema.json"
    RENDER = f"{_SCHEMAS}/render/v2.0.0/schema.json"
    VERSION = f"{_SCHEMAS}/version/v1.2.0/schema.json"
    SCIENTIFIC = f"{_SCHEMAS}/scientific/v1.0.0/schema.json"
    VIEW = f"{_SCHEMAS}/view/v1.0.0/schema.json"
    GRID = f"{_SCHEMAS}/grid/v1.1.0/schema.json"
    MGRS = f"{_SCHEMAS}/mgrs/v1.0.0/schema.json"
    MLM = f"{_SCHEMAS}/mlm/v1.4.0/schema.json"


#: Of every product.
PRODUCT_EXTENSIONS = (
    Extension.PROJECTION,
    Extension.RASTER,
    Extension.EO,
    Extension.FILE,
    Extension.CLASSIFICATION,
    Extension.PROCESSING,
    Extension.RENDER,
    Extension.VERSION,
    Extension.SCIENTIFIC,
)
#: Of products whose source tells that much; each of these schemas asks for at least one field.
_WHERE_TOLD = {"view:": Extension.VIEW, "grid:": Extension.GRID, "mgrs:": Extension.MGRS}
#: Of every model.
MODEL_EXTENSIONS = (Extension.MLM, Extension.FILE, Extension.VERSION, Extension.SCIENTIFIC, Extension.PROCESSING)

_AUTHORS = "Sui, J., Ma, Y., Yang, W., Zhang, X., Pun, M.-O., Liu, J."
_PAPER = "Diffusion Enhancement for Cloud Removal in Ultra-Resolution Remote Sensing Imagery"
#: The paper of the method, as preprint and in its journal, in the words of the scientific extension.
PUBLICATIONS: tuple[dict[str, str], ...] = (
    {"doi": "10.48550/arXiv.2401.15105", "citation": f"{_AUTHORS} (2024). {_PAPER}. arXiv:2401.15105."},
    {
        "doi": "10.1109/TGRS.2024.3411671",
        "citation": f"{_AUTHORS} (2024). {_PAPER}. IEEE Transactions on Geoscience and Remote Sensing, 62, 1-14.",
    },
)


def product_extensions(properties: Mapping[str, Any]) -> list[str]:
    """Return what an item with these properties declares."""
    told = [extension for prefix, extension in _WHERE_TOLD.items() if _has(properties, prefix)]
    return [str(extension) for extension in (*PRODUCT_EXTENSIONS, *told)]


def _has(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
