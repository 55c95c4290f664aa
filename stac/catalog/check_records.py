"""The records of a check: what is wrong, where, and how much was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum, unique
from typing import Any


@unique
class ProblemKind(StrEnum):
    """What is wrong; scripts may rely on these words."""

    #: A document is there but is not a STAC document.
    UNREADABLE = "document-unreadable"
    #: The place cannot be reached, so nothing is known about it.
    UNREACHABLE = "unreachable"
    #: A document breaks the STAC schema or the schema of an extension.
    SCHEMA = "schema"
    #: An item of ours lacks what every product has.
    RULE = "product-rule"
    #: A link leads to nothing.
    LINK_BROKEN = "link-broken"
    #: A link that every document of a catalog has is missing.
    LINK_MISSING = "link-missing"
    #: A link contradicts the place of the document in the catalog.
    LINK_WRONG = "link-wrong"
    #: A document or an id appears twice.
    DUPLICATE = "duplicate"
    #: A document lies in the catalog, but no link leads to it.
    ORPHAN = "orphan"
    ASSET_MISSING = "asset-missing"
    ASSET_SIZE = "asset-size"
    ASSET_CHECKSUM = "asset-checksum"
    #: The asset cannot be read in parts over HTTP, as viewers of COGs do.
    ASSET_RANGES = "asset-ranges"
    COG = "cog"
    #: A collection does not cover its items.
    EXTENT = "extent"
    #: A catalog or collection counts other items than it links.
    COUNT = "count"
    #: The GeoParquet mirror of a collection holds other items than the collection.
    MIRROR = "mirror"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    code: ProblemKind
    #: Path or address of the document or file that has it.
    place: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much was looked at."""

    #: Catalogs that are no collections: the root, and the nodes between a collection and its items.
    catalogs: int = 0
    collections: int = 0
    items: int = 0
    assets: int = 0
    cogs: int = 0
    #: Sum of the sizes of all assets.
    bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True, slots=True)
class Step:
    """A document on the way from the root."""

    href: str
    #: `Catalog`, `Collection` or `Feature`.
    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a link to an item led to."""

    href: str
    #: The documents above it, root first.
    above: tuple[Step, ...]
    counts: Counts = field(default_factory=Counts)
    #: Empty where the item cannot be read.
    id: str = ""
    #: (west, south, east, north) in degrees; west > east across the antimeridian.
    bbox: tuple[float, ...] = ()
    #: As the item says it.
    datetime: str = ""

    @property
    def collection(self) -> str:
        """Id of the collection that it is listed in, empty without one."""
        return next((step.id for step in reversed(self.above) if step.type == "Collection"), "")


@dataclass(frozen=True, slots=True)
class CatalogReport:
    """The result of a check."""

    catalog: str
    counts: Counts
    problems: tuple[Problem, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "catalog": self.catalog,
            "valid": self.valid,
            "counts": asdict(self.counts),
            "problems": [asdict(problem) for problem in self.problems],
        }
