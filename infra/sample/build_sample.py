"""Build the shipped sample from thinned Sentinel-2 acquisitions.

Usage: python infra/sample/build_sample.py SOURCE_DIR [--out stac/sample]

SOURCE_DIR holds catalog.json, collection.json and one folder per item (COGs at 120 m and the item's JSON).
Pixels are copied unchanged; only the window, the layout of the files and the fields that describe them
change. The folder that is written is replaced, so the command can be repeated; it ends with an error when
the result exceeds 24.5 MB.

Example: python infra/sample/build_sample.py ../shared/data/sentinel2-l2a-120m --out stac/sample
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.windows import Window

#: Columns are the same for both tiles. 33TWM ends at northing 5100060, half a pixel above the top
#: edge of 33TWL (5100000), so the two areas share no ground: training on one and validating on the other
#: does not leak.
WINDOWS = {"33TWM": Window(147, 321, 768, 512), "33TWL": Window(147, 0, 768, 480)}
BANDS = ("blue", "green", "red", "nir", "scl")
DESCRIPTION = (
    "A window of the scene, thinned from 10 m to 120 m by nearest neighbour (aliased). eo:cloud_cover is "
    "of the window (scene classes 8, 9 and 10); the s2: percentages are of the whole scene. The declared "
    "offset of -0.1 is already in the pixels (earthsearch:boa_offset_applied): reflectance = DN / 10000."
)
#: Where the scenes are archived.
ORIGIN = "https://earth-search.aws.element84.com/v1"
ATTRIBUTION = "Contains modified Copernicus Sentinel data 2023"
LICENSE = {
    "rel": "license",
    "href": "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice",
    "type": "application/pdf",
    "title": "Copernicus Sentinel data legal notice",
}
#: A clone should stay quick, megabytes.
LARGEST_MB = 24.5
#: No overviews: the sample is nearest-thinned and read at full resolution only, and must stay small.
COG = {
    "driver": "COG",
    "COMPRESS": "ZSTD",
    "LEVEL": "22",
    "PREDICTOR": "STANDARD",
    "OVERVIEWS": "NONE",
    "BLOCKSIZE": "512",
}


def crop(source: Path, target: Path, window: Window) -> tuple[Any, list[int], np.ndarray]:
    """Copy a window of a raster, bit for bit; return its transform, shape and pixels."""
    with rasterio.open(source) as src:
        pixels = src.read(1, window=window)
        transform = src.window_transform(window)
        profile = {
            "count": 1,
            "dtype": pixels.dtype,
            "crs": src.crs,
            "transform": transform,
            "nodata": src.nodata,
        }
    with rasterio.open(target, "w", height=pixels.shape[0], width=pixels.shape[1], **profile, **COG) as dst:
        dst.write(pixels, 1)
    with rasterio.open(target) as back:
        if not np.array_equal(back.read(1), pixels):
            raise SystemExit(f"{target} does not hold the pixels of {source}")
    return transform, list(pixels.shape), pixels


def footprint(transform: Any, shape: list[int]) -> tuple[dict[str, Any], list[float]]:
    """Return the window's outline in degrees, five points a side, and its box."""
    to_lonlat = Transformer.from_crs(32633, 4326, always_xy=True)
    height, width = shape
    side = np.linspace(0, 1, 5)[:-1]
    rows = np.concatenate([side * 0, side, side * 0 + 1, 1 - side]) * height
    columns = np.concatenate([side, side * 0 + 1, 1 - side, side * 0]) * width
    x, y = transform * (columns, rows)
    ring = [[round(float(a), 7), round(float(b), 7)] for a, b in zip(*to_lonlat.transform(x, y), strict=True)]
    # Clockwise in pixel space is counter-clockwise nowhere: reverse for a right-handed ring.
    ring = [*ring[::-1], ring[-1]]
    lon, lat = zip(*ring, strict=True)
    return {"type": "Polygon", "coordinates": [ring]}, [min(lon), min(lat), max(lon), max(lat)]


def build_item(folder: Path, out: Path) -> dict[str, Any]:
    """Crop the assets of one item and return its document."""
    item = json.loads((folder / f"{folder.name}.json").read_text())
    window = WINDOWS[folder.name.split("_")[1]]
    (out / folder.name).mkdir(parents=True)
    pixels: dict[str, np.ndarray] = {}
    for key in BANDS:
        asset = item["assets"][key]
        name = Path(asset["href"]).name
        transform, shape, pixels[key] = crop(folder / name, out / folder.name / name, window)
        asset.update({"href": f"./{name}", "proj:shape": shape, "proj:transform": list(transform)[:6]})
    item["assets"] = {key: item["assets"][key] for key in BANDS}
    item["geometry"], item["bbox"] = footprint(transform, shape)
    seen = pixels["scl"] > 0
    properties = item["properties"]
    properties["eo:cloud_cover"] = round(float(np.isin(pixels["scl"], (8, 9, 10))[seen].mean() * 100), 2)
    properties["title"] = f"{properties['platform'].title()} {properties['grid:code']} {properties['datetime'][:10]}"
    properties["description"] = DESCRIPTION
    properties["attribution"] = ATTRIBUTION
    item["collection"] = "sentinel-2-l2a"
    kept = [link for link in item["links"] if link["rel"] == "derived_from"]
    up = [
        {"rel": "root", "href": "../catalog.json", "type": "application/json", "title": "Unveil sample"},
        {
            "rel": "parent",
            "href": "../collection.json",
            "type": "application/json",
            "title": "Sentinel-2 Level 2A",
        },
        {
            "rel": "collection",
            "href": "../collection.json",
            "type": "application/json",
            "title": "Sentinel-2 Level 2A",
        },
    ]
    canonical = {
        "rel": "canonical",
        "href": f"{ORIGIN}/collections/sentinel-2-l2a/items/{item['id']}",
        "type": "application/geo+json",
        "title": f"{item['id']} at Earth Search",
    }
    item["links"] = [*up, canonical, LICENSE, *kept]
    (out / folder.name / f"{folder.name}.json").write_text(json.dumps(item, indent=1) + "\n")
    return item


def write_catalog(source: Path, out: Path, items: list[dict[str, Any]]) -> None:
    """Write collection and root."""
    collection = json.loads((source / "collection.json").read_text())
    boxes = np.array([item["bbox"] for item in items])
    collection["extent"]["spatial"]["bbox"] = [[*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()]]
    collection["license"] = "other"
    collection["description"] = (
        "Ten real Sentinel-2 L2A acquisitions of two neighbouring areas in August 2023, thinned to 120 m. "
        + ATTRIBUTION
        + "."
    )
    links = [
        {
            "rel": "item",
            "href": f"./{i['id']}/{i['id']}.json",
            "type": "application/geo+json",
            "title": i["properties"]["title"],
        }
        for i in sorted(items, key=lambda i: (i["properties"]["datetime"], i["id"]))
    ]
    root = {"rel": "root", "href": "./catalog.json", "type": "application/json", "title": "Unveil sample"}
    collection["links"] = [root, {**root, "rel": "parent"}, LICENSE, *links]
    (out / "collection.json").write_text(json.dumps(collection, indent=1) + "\n")
    child = {
        "rel": "child",
        "href": "./collection.json",
        "type": "application/json",
        "title": collection["title"],
    }
    catalog = {
        "type": "Catalog",
        "id": "unveil-sample",
        "stac_version": "1.0.0",
        "title": "Unveil sample",
        "description": collection["description"],
        "links": [root, child],
    }
    (out / "catalog.json").write_text(json.dumps(catalog, indent=1) + "\n")


README = f"""# Sample imagery

{ATTRIBUTION} (free, full and open; attribution required).

Ten real Sentinel-2 L2A acquisitions (MGRS 33TWM and 33TWL, Croatia and Slovenia; 10, 13, 15, 18 and 20
August 2023), with their real Earth Search items. Taken from the test data of mapchete/mapchete-eo (MIT
licence), where they were thinned from 10 m to 120 m by nearest neighbour; here a window of each is kept,
pixel values unchanged. Made by `python infra/sample/build_sample.py SOURCE_DIR`.

The two windows are neighbours that share no ground. The items declare `offset: -0.1` and
`earthsearch:boa_offset_applied: true`: the offset is already in the pixels (reflectance = DN / 10000).
"""


def replace_folder(out: Path) -> None:
    """Empty the target, which must be a sample already or not exist: nothing else is ever deleted."""
    if out.exists():
        readme = out / "README.md"
        if not (readme.is_file() and readme.read_text().startswith("# Sample imagery")):
            raise SystemExit(f"{out} exists and is not a sample; choose another folder.")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the thinned acquisitions")
    parser.add_argument("--out", type=Path, default=Path("stac/sample"), help="folder to write (replaced)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if not (arguments.source / "collection.json").is_file():
        parser.error(f"{arguments.source} holds no collection.json")
    replace_folder(out)
    folders = sorted(path for path in arguments.source.iterdir() if path.is_dir())
    write_catalog(arguments.source, out, [build_item(folder, out) for folder in folders])
    (out / "README.md").write_text(README)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    sys.stdout.write(f"{size:.1f} MB in {out}\n")
    if size > LARGEST_MB:
        raise SystemExit(f"The sample may have {LARGEST_MB} MB; keep fewer columns in WINDOWS.")


if __name__ == "__main__":
    main()
