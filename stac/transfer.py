"""A whole catalog at another place: product by product, each published there as a run would publish it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pystac

from stac.errors import InvalidProduct
from stac.model_items import MODELS_COLLECTION
from stac.publish import StaticCatalog
from stac.shelves import Shelf
from stac.storage import writing
from stac.targets import target_at
from stac.targets.base import Document


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was done to one collection."""

    collection: str
    copied: int
    unchanged: int


def copy_catalog(
    root: Path, target: StaticCatalog, tell: Callable[[str, int, int], None] = lambda *_: None
) -> list[Transfer]:
    """Copy all collections of a catalog in a folder to another catalog; work that is there already is left alone.

    A product arrives there whole or not at all, and what was copied stays when a later one fails: the same call
    continues. Nothing is removed.

    Args:
        root: folder of the catalog that is copied.
        target: any collection of the other one.
        tell: told of progress.

    Raises:
        InvalidProduct: a product of the source is broken.
        PublishError: the other place cannot be written.
    """
    # The models first: products name them in links.
    names = [MODELS_COLLECTION, *Shelf]
    others = sorted(set(target_at(root).collection_ids()) - {*names})
    source = StaticCatalog(root)
    return [_copy_shelf(source.beside(name), target.beside(name), tell) for name in [*names, *others]]


def _copy_shelf(source: StaticCatalog, target: StaticCatalog, tell: Callable[[str, int, int], None]) -> Transfer:
    there, published = target.published_work(), source.published_work()
    origin = target_at(source.root).read(f"{source.collection_id}/.source-collection.json")
    wanted = [(work_id, Path(str(place))) for work_id, place in published.items() if work_id not in there]
    for number, (work_id, place) in enumerate(wanted):
        tell(f"copying {place.stem}", number, len(wanted))
        _copy_product(source, target, work_id, place, origin)
    return Transfer(target.collection_id, len(wanted), len(published) - len(wanted))


def _copy_product(
    source: StaticCatalog, target: StaticCatalog, work_id: str, place: Path, origin: Document | None
) -> None:
    document = source.document(place.stem)
    if document is None:  # retracted meanwhile
        return
    staging = target.staging(work_id)
    for asset in document["assets"].values():
        name = str(asset["href"]).removeprefix("./")
        found = place.parent / name
        if not found.is_file():
            raise InvalidProduct(f"Item {place.stem}: {found} is missing; restore it, or retract the item.")
        with writing(staging / name):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, staging / name)
    item = pystac.Item.from_dict(document, preserve_dict=False)
    target.publish(staging, item, origin)
