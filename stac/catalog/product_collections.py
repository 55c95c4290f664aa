"""The collections of a catalog: products, products under review, mosaics, models; copies between catalogs.

A `catalog` is any collection of one; `limits` are the thresholds of the gate, None when it is off. Every function that
takes a catalog may raise what `StaticCatalog` does.
"""

from __future__ import annotations

import posixpath
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import pystac

from stac.catalog.documents import MOSAICS_COLLECTION, REVIEW_COLLECTION
from stac.catalog.links import Survey
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog, day_of
from stac.catalog.tree import Document, Progress, files_of
from stac.catalog.versions import version_for
from stac.errors import InvalidProduct
from stac.io.files import writing
from stac.io.s3 import Location
from stac.product.model_item import MODELS_COLLECTION
from stac.product.region_item import MOSAIC_JSON, repoint

#: Published products that are looked at together.
_AT_ONCE = 16
#: What the gate said: `passed`, `failed` or `off`; why it failed; and the thresholds it held the figures against.
GATE, GATE_REASONS, GATE_LIMITS = "unveil:gate", "unveil:gate_reasons", "unveil:gate_limits"


@unique
class GateState(StrEnum):
    """Values of the property `unveil:gate`."""

    PASSED = "passed"
    FAILED = "failed"
    #: Published without being judged.
    OFF = "off"


@unique
class ProductCollection(StrEnum):
    """Ids of the collections."""

    GOOD = DEFAULT_COLLECTION
    REVIEW = REVIEW_COLLECTION
    #: Of periods, and of whole regions.
    MOSAICS = MOSAICS_COLLECTION


#: Where an item is taken out of when it is published: the other verdict of the gate.
OTHER_VERDICT: Mapping[str, tuple[ProductCollection, ...]] = {
    ProductCollection.GOOD: (ProductCollection.REVIEW,),
    ProductCollection.REVIEW: (ProductCollection.GOOD,),
    ProductCollection.MOSAICS: (),
}


def collection_of(item: pystac.Item) -> ProductCollection:
    """Return the collection an item belongs to."""
    if "unveil:period" in item.properties:
        return ProductCollection.MOSAICS
    return ProductCollection.REVIEW if item.properties.get(GATE) == GateState.FAILED else ProductCollection.GOOD


def publish_to_collection(
    catalog: StaticCatalog, staging: Path, item: pystac.Item, source_collection: Mapping[str, Any] | None = None
) -> Location:
    """Publish a staged product into its collection, and take an older verdict on the same item out of the other.

    Args:
        catalog: where to.
        staging: folder with all files that the item's assets name.
        item: the product's item, marked with what the gate said.
        source_collection: carries licence, providers and keywords into the collection.
    """
    kind = collection_of(item)
    chosen, day = catalog.beside(kind), _day(item)
    published = chosen.versions(item.id, day) if day else []
    item.properties["version"] = version_for(item.id, item.properties, published)
    place = chosen.publish(staging, item, source_collection)
    if published:
        chosen.settle_versions(item.id, day)
    for other in OTHER_VERDICT[kind]:
        catalog.beside(other).withdraw(item.id)
    return place


def places_of_versions(catalog: StaticCatalog, item: pystac.Item) -> list[Location]:
    """Return the places of all published items of the target and cell of an item: a new one changes the older ones."""
    chosen, day = catalog.beside(collection_of(item)), _day(item)
    names = {item.id, *(str(document["id"]) for document in chosen.versions(item.id, day))} if day else {item.id}
    return [chosen.place_of(name) for name in sorted(names)]


def _day(item: pystac.Item) -> str:
    return item.datetime.isoformat() if item.datetime else day_of({"properties": item.properties})


def retract(catalog: StaticCatalog, item_ids: Iterable[str]) -> list[Location]:
    """Take items out of whatever collection they are in; return the places of the other versions, which have changed.

    An id that is not there is passed over.
    """
    changed: set[Location] = set()
    for item_id in item_ids:
        for kind in map(catalog.beside, ProductCollection):
            day = day_of(kind.readable(item_id))
            kind.withdraw(item_id)
            if day:
                changed |= {kind.place_of(str(version["id"])) for version in kind.versions(item_id, day)}
            changed.discard(kind.place_of(item_id))
    return sorted(changed, key=str)


def with_regions(catalog: StaticCatalog, item_ids: Iterable[str]) -> list[str]:
    """Return some items and those of regions that are made of them, each once: without its cells a region is broken."""
    mosaics, found = catalog.beside(ProductCollection.MOSAICS), dict.fromkeys(item_ids)
    for item_id in tuple(found):
        if mosaics.is_there(item_id):
            found |= dict.fromkeys(mosaics.derived_from(item_id, day_of(mosaics.readable(item_id))))
    return list(found)


def finished_work(catalog: StaticCatalog, limits: Mapping[str, float] | None) -> dict[str, Location]:
    """Return the place of every item that need not be made again, by its work id.

    A product that waits for review counts as long as the gate is the one that failed it: with other thresholds it is
    made and judged anew.
    """
    good, review = catalog.beside(ProductCollection.GOOD), catalog.beside(ProductCollection.REVIEW)
    return _finished(good.published_work(), review, limits)


def broken_work(catalog: StaticCatalog, done: Mapping[str, Location]) -> dict[str, str]:
    """Return what is wrong with published products at a look, by work id; whole ones are left out.

    Args:
        catalog: where they are.
        done: places of items by their work id, from `finished_work`.
    """
    works: dict[str, list[str]] = defaultdict(list)
    for work_id, place in done.items():
        works[place.parent.parent.name].append(work_id)
    broken: dict[str, str] = {}
    for collection_id, ids in works.items():
        chosen, names = catalog.beside(collection_id), [done[work_id].stem for work_id in ids]
        sizes = chosen.sizes(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # on S3 each item is a request
            looks = pool.map(chosen.damage, names, ids, [sizes[name] for name in names])
        broken |= {work_id: found for work_id, found in zip(ids, looks, strict=True) if found}
    return broken


def published_place(
    catalog: StaticCatalog, item_id: str, work_id: str, limits: Mapping[str, float] | None
) -> Location | None:
    """Return the place of a product that is published whole and need not be made again, None without one.

    Costs the same in a catalog of any size; `finished_work` says which products count.
    """
    for kind in ProductCollection:
        chosen = catalog.beside(kind)
        link = chosen.link_to(item_id)
        judged = kind is not ProductCollection.REVIEW or (link or {}).get(GATE_LIMITS) == limits
        if link is not None and judged and not chosen.damage(item_id, work_id):
            return chosen.place_of(item_id)
    return None


def repair_collections(catalog: StaticCatalog, limits: Mapping[str, float] | None) -> dict[str, Location]:
    """Repair both collections after a crash, and return what `finished_work` does, from the same reading of the links.

    What has no link is linked, and what was published as good meanwhile leaves the review.
    """
    good, review = catalog.beside(ProductCollection.GOOD), catalog.beside(ProductCollection.REVIEW)
    passed, survey = good.published_work(survey=good.repair()), review.repair()
    for work_id, place in review.published_work(survey=survey).items():
        if work_id in passed:
            review.withdraw(place.stem)
    return _finished(passed, review, limits, survey)


def _finished(
    passed: Mapping[str, Location],
    review: StaticCatalog,
    limits: Mapping[str, float] | None,
    survey: Survey | None = None,
) -> dict[str, Location]:
    judged = review.published_work(lambda properties: properties.get(GATE_LIMITS) == limits, survey)
    return judged | dict(passed)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was done to one collection."""

    collection: str
    copied: int
    unchanged: int


def copy_catalog(
    root: Path, target: StaticCatalog, progress: Progress = lambda *_: None, public_root: str = ""
) -> list[Transfer]:
    """Copy all collections of a catalog in a folder to another catalog; work that is there whole is left alone.

    A product arrives there whole or not at all, and what was copied stays when a later one fails: the same call
    continues. Nothing is removed.

    Args:
        root: folder of the catalog that is copied.
        target: any collection of the other one.
        progress: called with the progress.
        public_root: address under which readers find the copy; where it lies when left out.
    """
    address = public_root.rstrip("/") or str(target.root.absolute() if isinstance(target.root, Path) else target.root)
    # The models first: products name them in links.
    names = [MODELS_COLLECTION, ProductCollection.GOOD, ProductCollection.REVIEW]
    source = StaticCatalog(root)
    others = sorted(set(source.target.collection_ids()) - {*names})
    return [
        _copy_collection(source.beside(name), target.beside(name), f"{address}/{name}/", progress)
        for name in [*names, *others]
    ]


def _copy_collection(source: StaticCatalog, target: StaticCatalog, address: str, progress: Progress) -> Transfer:
    there, published = target.published_work(), source.published_work()
    whole = there.keys() - broken_work(target, there).keys()
    origin = source.target.read(f"{source.collection_id}/.source-collection.json")
    wanted = [(work_id, Path(str(place))) for work_id, place in published.items() if work_id not in whole]
    # Regions last: their files say where the cells are.
    wanted.sort(key=lambda each: _is_region(source.document(each[1].stem)))
    for number, (work_id, place) in enumerate(wanted):
        progress(f"copying {place.stem}", number, len(wanted))
        _copy_product(source, target, work_id, place, address, origin)
    return Transfer(target.collection_id, len(wanted), len(published) - len(wanted))


def _copy_product(
    source: StaticCatalog, target: StaticCatalog, work_id: str, place: Path, address: str, origin: Document | None
) -> None:
    document = source.document(place.stem)
    if document is None:  # retracted meanwhile
        return
    staging = target.staging(work_id)
    for name in files_of(document):
        found = place.parent / name
        if not found.is_file():
            raise InvalidProduct(f"Item {place.stem}: {found} is missing; restore it, or retract the item.")
        with writing(staging / name):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, staging / name)
    item = pystac.Item.from_dict(document, preserve_dict=False)
    if _is_region(document):
        repoint(staging, item, _folders_of_cells(target, document), address)
    target.publish(staging, item, origin)
    if day := _day(item):
        target.settle_versions(item.id, day)
    for other in OTHER_VERDICT.get(target.collection_id, ()):
        target.beside(other).withdraw(item.id)


def _is_region(document: Document | None) -> bool:
    return MOSAIC_JSON in (document or {}).get("assets", {})


def _folders_of_cells(catalog: StaticCatalog, region: Document) -> dict[str, str]:
    """Return where a catalog has the files of a region's cells, relative to the collection, by the id of the cell."""
    folders: dict[str, str] = {}
    for link in region["links"]:
        cell = catalog.document(link["title"]) if link["rel"] == "derived_from" else None
        if cell is not None:
            visual = posixpath.normpath(cell["assets"]["visual"]["href"])
            folders[cell["id"]] = posixpath.dirname(f"{cell['id']}/{visual}")
    return folders
