"""File names and published split of SEN12MS-CR (Ebel et al. 2020, doi 10.1109/TGRS.2020.3024744)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from de_model.data.datasets import Split
from de_model.data.findings import Finding, Problem, error

SEASON = re.compile(r"(?P<roi>ROIs\d+)_(?P<season>spring|summer|fall|winter)_(?P<view>s1|s2|s2_cloudy)")
_SCENE = re.compile(r"(?P<view>s1|s2|s2_cloudy)_(?P<scene>\d+)")
_PATCH = re.compile(r"ROIs\d+_(spring|summer|fall|winter)_(s1|s2|s2_cloudy)_\d+_p(?P<patch>\d+)\.tiff?", re.IGNORECASE)

#: Scenes held out by the data set's authors (UnCRtainTS, repository PatrickTUM/UnCRtainTS, revision 5e1f1b5; the
#: same ten and ten in GeoCR's list of exact ROIs): 7,899 test and 7,176 validation patches. All others train.
_HELD_OUT = {
    Split.TEST: {
        "ROIs1158_spring": (31, 44, 106, 123, 140),
        "ROIs1868_summer": (73, 119),
        "ROIs1970_fall": (139,),
        "ROIs2017_winter": (63, 108),
    },
    Split.VAL: {
        "ROIs1158_spring": (17,),
        "ROIs1868_summer": (17, 19, 80, 127),
        "ROIs1970_fall": (65,),
        "ROIs2017_winter": (22, 84, 107, 130),
    },
}
_SCENE_SPLITS = {
    f"{season}/{scene}": split
    for split, seasons in _HELD_OUT.items()
    for season, scenes in seasons.items()
    for scene in scenes
}

Key = tuple[str, int, int]
TripletFields = tuple[Split, str, str, Path, Path, None, None, None, Path | None]


def published_split(scene: str) -> Split:
    """Return the split of a scene, named like `ROIs1158_spring/31`; compared as a whole, never as a substring."""
    return _SCENE_SPLITS.get(scene, Split.TRAIN)


def find_triplets(root: Path) -> tuple[list[TripletFields], list[Finding]]:
    """Return the fields of `PairFiles` after the data set of every patch, and the patches that lack a view.

    Radar is optional as a whole: when a season has a radar folder, its patches must be there.
    """
    views: dict[str, dict[Key, Path]] = {"s1": {}, "s2": {}, "s2_cloudy": {}}
    findings: list[Finding] = []
    for season in sorted(path for path in root.iterdir() if path.is_dir()):
        matched = SEASON.fullmatch(season.name)
        if matched:
            patches = dict(_patches(season, f"{matched['roi']}_{matched['season']}", matched["view"]))
            views[matched["view"]].update(patches)
            if not patches:
                findings.append(error(Problem.EMPTY_FOLDER, f"{season} holds no patch s2_1/ROIs*_p30.tif."))
    cloudy, clear, radar = views["s2_cloudy"], views["s2"], views["s1"]
    findings += _unpaired(cloudy, clear, "s2") + _unpaired(clear, cloudy, "s2_cloudy")
    seasons = {key[0] for key in radar}
    with_radar = {key: path for key, path in cloudy.items() if key[0] in seasons}
    findings += _unpaired(with_radar, radar, "s1") + _unpaired(radar, cloudy, "s2_cloudy")
    return [
        _fields(key, cloudy[key], clear[key], radar.get(key)) for key in sorted(cloudy.keys() & clear.keys())
    ], findings


def _patches(season: Path, name: str, view: str) -> Iterator[tuple[Key, Path]]:
    for scene in sorted(path for path in season.iterdir() if path.is_dir()):
        matched = _SCENE.fullmatch(scene.name)
        if not matched or matched["view"] != view:
            continue
        for path in sorted(scene.iterdir()):
            patch = _PATCH.fullmatch(path.name)
            if patch:
                yield (name, int(matched["scene"]), int(patch["patch"])), path


def _fields(key: Key, cloudy: Path, clear: Path, radar: Path | None) -> TripletFields:
    season, scene, patch = key
    group = f"{season}/{scene}"
    return published_split(group), f"{group}/p{patch}", group, cloudy, clear, None, None, None, radar


def _unpaired(own: dict[Key, Path], other: dict[Key, Path], view: str) -> list[Finding]:
    message = "{} has no counterpart in {} (scene {} {}, patch {})."
    return [error(Problem.UNPAIRED, message.format(own[key], view, *key)) for key in sorted(own.keys() - other.keys())]
