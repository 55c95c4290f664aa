"""Which asset of an item holds a band: by name, wavelength and resolution."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum, unique

import pystac

from stac.errors import InvalidItem, StacError
from stac.grid.georeference import Grid, band_fields, resolution
from stac.io.raster import FileFacts, file_facts
from stac.io.signing import Access

_SYNONYMS = {"r": "red", "g": "green", "b": "blue", "n": "nir", "ir": "nir", "infrared": "nir", "nir1": "nir"}
_NUMBERED = re.compile(r"(?:[a-z]+_)?b(?:and)?[ _-]?0?(\d{1,2}a?)(?:[ _-]r?\d+m)?")
_WORDS = ("blue", "green", "red", "nir", "coastal", "swir16", "swir22")
#: Bands that are distinguished; the others' names differ from archive to archive.
_FAMILIES = {"nir08": "nir"} | {name: name for name in _WORDS}
#: Ends of keys that name a resolution: `B02_10m`, `SCL-R20m`.
_RESOLUTION = re.compile(r"(.+?)[_-]?r?(\d{1,4})m", re.IGNORECASE)
#: Names that tools give to the bands of any file, which say where a band is and not what: `b1` of rio-stac, `Band 1`.
_POSITION = re.compile(r"b\d|[Bb]and[ _]?\d")
#: Pictures of bands are not the bands.
_PICTURES = frozenset({"thumbnail", "overview", "visual"})
_LISTS = ("bands", "eo:bands")
#: A file whose pixel size is asked for may not be inside this network.
_OUTSIDE = Access(hosts=frozenset(), timeout_s=15.0)


@unique
class Sensor(StrEnum):
    """Instruments whose band numbers are known."""

    MSI = "Sentinel-2 MSI"
    OLI = "Landsat 8-9 OLI"
    TM = "Landsat 4-7 TM and ETM+"


_NUMBERS: dict[Sensor, dict[str, str]] = {
    Sensor.MSI: {
        "1": "coastal", "2": "blue", "3": "green", "4": "red", "5": "rededge1", "6": "rededge2", "7": "rededge3",
        "8": "nir", "8a": "nir08", "9": "nir09", "10": "cirrus", "11": "swir16", "12": "swir22",
    },
    Sensor.OLI: {
        "1": "coastal", "2": "blue", "3": "green", "4": "red", "5": "nir08", "6": "swir16", "7": "swir22", "8": "pan",
        "9": "cirrus", "10": "lwir11", "11": "lwir12",
    },
    Sensor.TM: {"1": "blue", "2": "green", "3": "red", "4": "nir08", "5": "swir16", "6": "lwir", "7": "swir22"},
}  # fmt: skip
_NAMES = frozenset(name for table in _NUMBERS.values() for name in table.values()) | {"rededge", "yellow"}


def numbered(label: str) -> str:
    """Return the number in `B04`, `B8A`, `SR_B4` or `band 4` as `4` or `8a`; "" where a label is none of them."""
    found = _NUMBERED.fullmatch(label.strip().lower())
    return found[1] if found else ""


def common_name(label: str, sensor: Sensor | None = None) -> str:
    """Return the common name that a label means, "" where that is not certain.

    Args:
        label: a key, name or description: `red`, `Near infrared`, `Red (band 4)`, `B04`.
        sensor: whose band numbers are meant; with None numbers are not used.
    """
    text = label.strip().lower()
    if text in _NAMES:
        return text
    if text in _SYNONYMS:
        return _SYNONYMS[text]
    if number := numbered(text):
        return _NUMBERS[sensor].get(number, "") if sensor is not None else ""
    words = set(re.findall(r"[a-z]+\d*", text.replace("near infrared", "nir").replace("near-infrared", "nir")))
    if words & {"edge", "rededge", "without", "minus"}:
        return ""
    named = words & set(_WORDS)
    return named.pop() if len(named) == 1 else ""


def differ(one: str, other: str) -> bool:
    """Return whether two common names are certainly those of different bands."""
    first, second = _FAMILIES.get(one), _FAMILIES.get(other)
    return first is not None and second is not None and first != second


def means(label: str, band: str, sensor: Sensor | None = None) -> bool:
    """Return whether a label names a band: literally in any case, or by its common name."""
    if label.strip().lower() == band.lower():
        return True
    name = common_name(label, sensor)
    return bool(name) and same(name, band)


def same(one: str, other: str) -> bool:
    """Return whether two common names mean one band, or both near infrared."""
    return one == other or (one in _FAMILIES and _FAMILIES.get(one) == _FAMILIES.get(other))


def readings(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the common names that labels of one file can mean together: one for each sensor that fits all."""
    found = {tuple(common_name(label, sensor) for label in labels) for sensor in (None, *Sensor)}
    return sorted(names for names in found if all(names))


def looks_spectral(labels: Iterable[str]) -> bool:
    """Return whether any label is the name or the number of a band."""
    return any(numbered(label) or common_name(label) for label in labels)


def sensor_of(item: pystac.Item) -> Sensor | None:
    """Return the instrument of a scene where its band numbers are known."""
    said = " ".join(str(item.properties.get(name, "")) for name in ("platform", "constellation")).lower()
    words = f"{said} {item.collection_id or ''} {item.id}".lower()
    if "mss" in str(item.properties.get("instruments", "")).lower():
        return None
    esa = any(name.startswith("s2:") and value is not None for name, value in item.properties.items())
    if esa or re.search(r"sentinel[-_ ]?2|\bs2[a-d]?[_ -]", words):
        return Sensor.MSI
    if re.search(r"landsat[-_ ]?[89]|\bl[co]0[89]_", words):
        return Sensor.OLI
    return Sensor.TM if re.search(r"landsat[-_ ]?[457]|\bl[te]0[457]_", words) else None


def find_asset(item: pystac.Item, band: str) -> pystac.Asset:
    """Return the asset of a band: the finest of those that have its name as key, or hold it as their only band.

    Keys may end in a resolution (`SCL_20m`). Without any, an asset that lists the band among others is returned.

    Raises:
        InvalidItem: no asset has that name, or one has it as key and another band inside.
    """
    found = _candidates(item, band)
    if not found:
        has = ", ".join(sorted(item.assets)) or "none"
        raise InvalidItem(
            f"Item {item.id} has no asset for band {band}; it has {has}. Give bands their common names in the "
            "item, or name its assets in stac/search/providers.py."
        )
    asset = _finest(item, band, found)
    _check_name(item, asset, band)
    return asset


def has_asset(item: pystac.Item, band: str) -> bool:
    """Return whether an item has an asset for a band."""
    return bool(_candidates(item, band))


def band_index(item: pystac.Item, asset: pystac.Asset, band: str, facts: FileFacts) -> int:
    """Return the position of a band in the file of its asset, from 1.

    Raises:
        InvalidItem: item and file name different bands, or a file of several bands and its item do not say which it is.
    """
    name, sensor, count = f"Item {item.id}, asset {band}", sensor_of(item), len(facts.bands)
    lists = _listed(asset)
    wrong = next((len(names) for names in lists if len(names) != count), None)
    if wrong is not None:
        raise InvalidItem(f"{name}: the item lists {wrong} bands, the file has {count}; correct the item.")
    if count == 1:
        found = 1
    else:
        found = _among(name, band, _positions(lists, band, sensor), _by_file(facts, band, sensor), count)
    chosen = facts.bands[found - 1]
    if label := _of_another((chosen.description, chosen.colour), band, sensor):
        raise InvalidItem(f"{name}: the file calls this band {label}; correct the item or the file.")
    return chosen.index


def _among(name: str, band: str, said: Sequence[int], seen: Sequence[int], count: int) -> int:
    """Return the only position that item or file name."""
    both = sorted({*said, *seen})
    if len(both) == 1:
        return both[0]
    if not both:
        raise InvalidItem(f"{name}: the file has {count} bands, and neither item nor file says which is {band}.")
    raise InvalidItem(f"{name}: band {band} is number {list(said)} by the item and {list(seen)} by the file.")


def _positions(lists: Sequence[Sequence[Sequence[str]]], band: str, sensor: Sensor | None) -> list[int]:
    return sorted({number for bands in lists for number in _best(bands, band, sensor)})


def _by_file(facts: FileFacts, band: str, sensor: Sensor | None) -> list[int]:
    return _best([[label for label in (b.description, b.colour) if label] for b in facts.bands], band, sensor)


def _best(bands: Sequence[Sequence[str]], band: str, sensor: Sensor | None) -> list[int]:
    """Return the positions of the bands that have a name, from 1: those that have it exactly before its relatives."""
    if all(labels and all(_POSITION.fullmatch(label) for label in labels) for labels in bands):
        return []
    exact = [number for number, labels in enumerate(bands, 1) if _is_exactly(labels, band, sensor)]
    return exact or [n for n, labels in enumerate(bands, 1) if any(means(label, band, sensor) for label in labels)]


def _listed(asset: pystac.Asset) -> list[list[list[str]]]:
    """Return the names of every band, for each list of bands that an asset has."""
    keys = ("eo:common_name", "common_name", "name")
    lists = [band_fields(asset, name) for name in _LISTS]
    return [[[str(band[key]) for key in keys if band.get(key)] for band in bands] for bands in lists if bands]


def _candidates(item: pystac.Item, band: str) -> list[tuple[str, pystac.Asset]]:
    """Return the assets that are a band, with their keys: those of its key first."""
    sensor, wanted = sensor_of(item), band.lower()
    named = [(key, asset) for key, asset in item.assets.items() if key.lower() == wanted]
    named += [
        (key, asset) for key, asset in item.assets.items()
        if (found := _RESOLUTION.fullmatch(key)) is not None and found[1].lower() == wanted
    ]  # fmt: skip
    known = {id(asset) for _, asset in named}
    rasters = [(key, a) for key, a in item.assets.items() if id(a) not in known and not _PICTURES & set(a.roles or ())]
    alone = [(key, a, _listed(a)) for key, a in rasters if all(len(names) == 1 for names in _listed(a))]
    named += [(key, a) for key, a, lists in alone if any(_is_exactly(names[0], band, sensor) for names in lists)]
    if not named:
        named = [(key, a) for key, a, lists in alone if _positions(lists, band, sensor)]
    return named or [(key, a) for key, a in rasters if _positions(_listed(a), band, sensor)]


def _is_exactly(labels: Sequence[str], band: str, sensor: Sensor | None) -> bool:
    return any(band.lower() in (label.lower(), common_name(label, sensor)) for label in labels)


def _finest(item: pystac.Item, band: str, found: Sequence[tuple[str, pystac.Asset]]) -> pystac.Asset:
    """Return the asset with the smallest pixels; of equals the first. Files are asked where items do not say."""
    if len(found) == 1:
        return found[0][1]
    sizes = [_size(key, asset) or _size_in_file(item, key, band, asset) for key, asset in found]
    return found[sizes.index(min(sizes))][1]


def _size(key: str, asset: pystac.Asset) -> float | None:
    """Return the pixel size that an asset declares, None where it does not say."""
    if (said := resolution(asset)) is not None:
        return said
    if transform := Grid.of(asset.extra_fields, f"Asset {key}").transform:
        return math.hypot(transform[0], transform[3])
    found = _RESOLUTION.fullmatch(key)
    return float(found[2]) if found else None


def _size_in_file(item: pystac.Item, key: str, band: str, asset: pystac.Asset) -> float:
    """Return the pixel size of a file; where it cannot be read, the asset of the band's own name counts as finest."""
    href = asset.get_absolute_href() or asset.href
    try:
        facts = file_facts(href, f"Item {item.id}, asset {key}", _OUTSIDE, item.collection_id or "", "")
    except StacError:
        return 0.0 if key.lower() == band.lower() else math.inf
    return math.hypot(facts.transform[0], facts.transform[3])


def _check_name(item: pystac.Item, asset: pystac.Asset, band: str) -> None:
    """Raise where an asset has the key of one band and the name of another."""
    for names in _listed(asset):
        if len(names) == 1 and (label := _of_another(names[0], band, sensor_of(item))):
            raise InvalidItem(f"Item {item.id}, asset {band}: its band is called {label}; correct the item.")


def _of_another(labels: Iterable[str], band: str, sensor: Sensor | None) -> str:
    """Return the first label that is certainly of another band, with its common name; "" where none is."""
    known = ((label, common_name(label, sensor)) for label in labels if label and not _POSITION.fullmatch(label))
    return next((f"{label!r} ({name})" for label, name in known if differ(name, band)), "")
