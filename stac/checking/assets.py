"""The files that a document names: there, of the size and checksum it says, and COGs where it says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stac.checking.places import Places
from stac.checking.report import Problem, ProblemKind
from stac.errors import InvalidProduct, StacError
from stac.items import COG_TYPE, file_info
from stac.raster import check_cog
from stac.sources.hrefs import is_remote, resolve


def asset_problems(places: Places, base: str, document: Mapping[str, Any], *, checksums: bool) -> Iterator[Problem]:
    """Yield what is wrong with the assets of an item or collection.

    Args:
        places: reads the files.
        base: where the document lies.
        document: it keeps the STAC schema.
        checksums: whether files are read whole, for their checksums and the layout of COGs.
    """
    for key, asset in document.get("assets", {}).items():
        yield from _asset_problems(places, base, key, asset, checksums=checksums)


def _asset_problems(
    places: Places, base: str, key: str, asset: Mapping[str, Any], *, checksums: bool
) -> Iterator[Problem]:
    try:
        place = resolve(base, asset["href"])
        if is_remote(place) and not is_remote(base):
            return  # what lies on a server, a catalog in a folder only points to
        found = places.size(place)
        if found is None:
            yield Problem.at(ProblemKind.ASSET_MISSING, base, f"asset {key} is missing ({place})")
        elif found >= 0 and asset.get("file:size", found) != found:
            yield Problem.at(
                ProblemKind.ASSET_SIZE, place, f"asset {key} has {found} bytes, its item says {asset['file:size']}"
            )
        elif asset.get("type") == COG_TYPE and not places.has_ranges(place):
            yield Problem.at(
                ProblemKind.ASSET_RANGES, place, f"asset {key} cannot be read in parts; serve it with byte ranges"
            )
        elif checksums:
            yield from _content_problems(places, place, key, asset)
    except StacError as error:
        yield Problem.at(ProblemKind.UNREACHABLE, base, f"asset {key}: {error}")


def _content_problems(places: Places, place: str, key: str, asset: Mapping[str, Any]) -> Iterator[Problem]:
    with places.at_hand(place) as file:
        wanted = asset.get("file:checksum")
        if wanted is not None and file_info(file)["file:checksum"] != wanted:
            yield Problem.at(ProblemKind.ASSET_CHECKSUM, place, f"asset {key} differs from its checksum")
        if asset.get("type") == COG_TYPE:
            try:
                check_cog(file)
            except InvalidProduct as error:
                yield Problem.at(ProblemKind.COG, place, str(error).replace(str(file), place))
