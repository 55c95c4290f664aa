"""Names of spectral bands: what catalogs, files and people write, as common names of the STAC eo extension."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum, unique


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
_SYNONYMS = {"r": "red", "g": "green", "b": "blue", "n": "nir", "ir": "nir", "infrared": "nir", "nir1": "nir"}
_NUMBERED = re.compile(r"(?:[a-z]+_)?b(?:and)?[ _-]?0?(\d{1,2}a?)(?:[ _-]r?\d+m)?")
_WORDS = ("blue", "green", "red", "nir", "coastal", "swir16", "swir22")
#: Bands that are told from each other; the others' names differ from archive to archive.
_FAMILIES = {"nir08": "nir"} | {name: name for name in _WORDS}


def numbered(label: str) -> str:
    """Return the number in `B04`, `B8A`, `SR_B4` or `band 4` as `4` or `8a`; "" where a label is none of them."""
    found = _NUMBERED.fullmatch(label.strip().lower())
    return found[1] if found else ""


def common_name(label: str, sensor: Sensor | None = None) -> str:
    """Return the common name that a label means, "" where that is not certain.

    Args:
        label: a key, name or description: `red`, `Near infrared`, `Red (band 4)`, `B04`.
        sensor: whose band numbers are meant; None knows no numbers.
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
