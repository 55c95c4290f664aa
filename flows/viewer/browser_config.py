"""What STAC Browser is told at run time: its catalog, coordinate systems and the map under the imagery."""

from __future__ import annotations

import functools
import json
from enum import StrEnum
from pathlib import Path

from pyproj import CRS
from pyproj.enums import WktVersion

from flows.errors import InvalidSettings

#: Address of the generated script, and of the catalog that it opens; both relative to the server's root.
CONFIG_PATH = "/unveil-config.js"
CATALOG_PATH = "/catalog/catalog.json"

_TITLE = "Unveil"
_RUNTIME = Path(__file__).parent / "browser" / "runtime.js"


class Basemap(StrEnum):
    """The map under the imagery; only `openstreetmap` asks an outside service."""

    GRATICULE = "graticule"
    OPENSTREETMAP = "openstreetmap"
    NONE = "none"


def utm_codes() -> list[str]:
    """Return the EPSG codes of the 120 UTM zones on WGS 84: EPSG:32601-32660 and EPSG:32701-32760."""
    return [f"EPSG:{base + zone}" for base in (32600, 32700) for zone in range(1, 61)]


@functools.cache
def utm_definitions() -> dict[str, str]:
    """Return OGC WKT 1 by EPSG code for every UTM zone.

    Only EPSG:3857 and EPSG:4326 are built into STAC Browser; it asks an outside service for each other code.
    """
    return {code: CRS.from_user_input(code).to_wkt(WktVersion.WKT1_GDAL) for code in utm_codes()}


def config_script(basemap: Basemap = Basemap.GRATICULE) -> str:
    """Return the JavaScript that sets `window.STAC_BROWSER_CONFIG`; it must run before the bundle."""
    settings = {
        "catalogPath": CATALOG_PATH,
        "title": _TITLE,
        "basemap": basemap.value,
        "crs": utm_definitions(),
    }
    return f"window.UNVEIL_SETTINGS = {json.dumps(settings)};\n{_RUNTIME.read_text(encoding='utf-8')}"


def index_page(browser_dir: Path) -> str:
    """Return the start page of the build in `browser_dir`, with the configuration loaded first.

    Raises InvalidSettings when the folder holds no build of STAC Browser.
    """
    index = browser_dir / "index.html"
    try:
        page = index.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(f"{browser_dir} holds no STAC Browser: {index.name} cannot be read.") from error
    if "<head>" not in page:
        raise InvalidSettings(f"{index} is no start page of STAC Browser: it has no <head>.")
    page = page.replace("<title>STAC Browser</title>", f"<title>{_TITLE}</title>", 1)
    return page.replace("<head>", f'<head><script src="{CONFIG_PATH}"></script>', 1)
