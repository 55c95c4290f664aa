"""The composite of a tile as an xarray user writes it in an afternoon: the yardstick of `benchmarks.tile`.

    python -m benchmarks.plain CATALOG.json DAY OUT.tif

All dates in memory, clouds by SCL, a line per band and date, the mean of what saw a pixel; one COG, nothing else.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile

_BANDS, _HIDDEN = ("blue", "green", "red", "nir"), (0, 1, 3, 8, 9, 10)


def main(catalog: Path, day: str, out: Path) -> None:
    """Fill one day and print the seconds of the stages as JSON."""
    clock = [time.monotonic()]
    items = [pystac.Item.from_file(str(path)) for path in sorted(catalog.parent.glob("*/*.json"))]
    grid = {"crs": items[0].properties["proj:code"], "resolution": items[0].properties["gsd"]}
    cube = odc.stac.load(items, bands=[*_BANDS, "scl"], groupby="id", pool=2, **grid)
    clock.append(time.monotonic())
    seen = ~np.isin(cube.scl.values, _HIDDEN)
    target = int(np.flatnonzero(cube.time.values.astype("datetime64[D]") == np.datetime64(day))[0])
    image = np.empty((len(_BANDS), *seen.shape[1:]), np.uint16)
    for band, name in enumerate(_BANDS):
        pixels, total = cube[name].values, np.zeros(seen.shape[1:], np.float32)
        for date in set(range(len(pixels))) - {target}:
            both = seen[date] & seen[target]
            slope, offset = np.polyfit(pixels[date][both][::100], pixels[target][both][::100], 1)
            total += np.where(seen[date], np.float32(slope) * pixels[date] + np.float32(offset), 0)
        count = seen.sum(axis=0) - seen[target]
        mean = np.rint(total / np.maximum(count, 1)).clip(1, 65_535)
        image[band] = np.where(seen[target], pixels[target], np.where(count, mean, 0))
    clock.append(time.monotonic())
    shape = {"height": image.shape[1], "width": image.shape[2], "count": len(image), "dtype": "uint16", "nodata": 0}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=grid["crs"], transform=cube.odc.transform, tiled=True, **shape) as file:
            file.write(image)
        with memory.open() as file:
            rasterio.shutil.copy(file, out, driver="COG", COMPRESS="DEFLATE", PREDICTOR=2, NUM_THREADS=2)
    clock.append(time.monotonic())
    seconds = dict(zip(("load", "composite", "write"), np.diff(clock).tolist(), strict=True))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": used.ru_maxrss * 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
