"""Two collections of one catalog: what passed the quality gate, and what a person must look at first."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import pystac

from stac.catalog import REVIEW_COLLECTION
from stac.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.validate import read_document

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
class Shelf(StrEnum):
    """Ids of the collections."""

    GOOD = DEFAULT_COLLECTION
    REVIEW = REVIEW_COLLECTION


def shelf_of(item: pystac.Item) -> Shelf:
    """Return the collection an item belongs to."""
    return Shelf.REVIEW if item.properties.get(GATE) == GateState.FAILED else Shelf.GOOD


def publish_on_shelf(
    root: Path, staging: Path, item: pystac.Item, source_collection: Mapping[str, Any] | None = None
) -> Path:
    """Publish a staged product into its collection, and take an older verdict on the same item out of the other.

    Args:
        root: folder of the catalog.
        staging: folder with all files that the item's assets name.
        item: the product's item, marked with what the gate said.
        source_collection: carries licence, providers and keywords into the collection.

    Raises:
        InvalidProduct: a file, the item, or what was read back is wrong.
        DiskFull, NotWritable: the catalog cannot be written.
        PublishError: another process holds the catalog for too long.
    """
    shelf = shelf_of(item)
    path = StaticCatalog(root, shelf).publish(staging, item, source_collection)
    for other in set(Shelf) - {shelf}:
        StaticCatalog(root, other).withdraw(item.id)
    return path


def finished_work(root: Path, limits: Mapping[str, float] | None) -> dict[str, Path]:
    """Return the path of every item that need not be made again, by its work id.

    A product that waits for review counts as long as the gate is the one that failed it: with other thresholds it is
    made and judged anew.

    Args:
        root: folder of the catalog.
        limits: thresholds of the gate, None when it is off.

    Raises:
        InvalidProduct: an item cannot be read.
    """
    waiting = StaticCatalog(root, Shelf.REVIEW).published_work()
    judged = {work: path for work, path in waiting.items() if _limits(path) == limits}
    return judged | StaticCatalog(root, Shelf.GOOD).published_work()


def tidy_review(root: Path) -> None:
    """Mend the review after a crash: link what has no link, and drop what was published as good meanwhile.

    Raises:
        InvalidProduct: an item cannot be read.
        DiskFull, NotWritable: the catalog cannot be written.
    """
    review, good = StaticCatalog(root, Shelf.REVIEW), StaticCatalog(root, Shelf.GOOD).published_work()
    for work_id, path in review.published_work().items():
        if work_id in good:
            review.withdraw(path.stem)
    review.repair()


def _limits(path: Path) -> Any:
    return read_document(path)["properties"].get(GATE_LIMITS)
