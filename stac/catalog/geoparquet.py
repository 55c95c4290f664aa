"""A collection as STAC-GeoParquet, for whoever wants many items at once: a table instead of ten thousand files.

The layout is that of stac-geoparquet 1.0 (https://github.com/stac-utils/stac-geoparquet): one row per item, its
properties as columns, assets and links as structs, the footprint as WKB. Every collection is mirrored in files of one
month each, `COLLECTION/_items/2023-08.parquet`; an export is one file of a whole catalog.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from stac.catalog.links import ids_below
from stac.catalog.publish import StaticCatalog
from stac.catalog.store_s3 import Target
from stac.catalog.tree import CONTENTS, MIRRORS, Contents, Document, Node, contents_of, item_name, nodes_in
from stac.errors import EmptySearch, InvalidItem, UnreadableCatalog
from stac.io.files import writing
from stac.io.s3 import S3Options
from stac.io.signing import Access
from stac.search.hrefs import resolve
from stac.search.static import StaticSource, root_href

#: What the keys of the assets begin with; the month follows.
_ASSET = "geoparquet-"
MIRROR_ROLE = "collection-mirror"
MEDIA_TYPE = "application/vnd.apache.parquet"
#: Items that are held in memory at once; also the rows of a row group, which readers skip by their statistics.
_CHUNK = 500
#: Called with how many items have been read.
Progress = Callable[[int], object]


def export_items(
    catalog: str,
    file: Path,
    collections: Sequence[str] = (),
    *,
    base: str = "",
    s3: S3Options | None = None,
    progress: Progress = lambda _: None,
) -> int:
    """Write items into a file and return how many; an older file is replaced at once.

    Memory is bounded: items are converted in pieces that wait on disk beside `file`.

    Args:
        catalog: folder, path or address of the catalog's root document or its folder.
        file: where to.
        collections: their ids; all when empty.
        base: what the hrefs of the catalog's own files begin with instead of the place of the catalog: an address at
            which it is served. Empty keeps absolute paths and addresses, `.` makes them relative to the collection.
        s3: where S3 is and as whom it is asked.
        progress: called with how many items have been read.

    Raises:
        EmptySearch: there are no items.
        UnreadableCatalog: the catalog or one of its items cannot be read.
        InvalidItem: the same property has values of different types, so there is no common table.
        NotWritable, DiskFull: the file cannot be written.
    """
    source = StaticSource(catalog, access=Access(s3 or S3Options()))
    names = list(collections) or source.collections()
    documents = _documents(source, names, posixpath.dirname(root_href(catalog)), base, progress)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    try:
        written = _write(
            documents, {name: _described(source.collection(name)) for name in names}, work, work / "done.parquet"
        )
        if source.skipped:
            raise UnreadableCatalog(f"{len(source.skipped)} items are left out, so nothing was written. First: "
                                    f"{source.skipped[0].reason}")  # fmt: skip
        with writing(file):
            (work / "done.parquet").replace(file)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return written


def ids_in(file: Path) -> list[str]:
    """Return the ids of the items in a file, sorted; the other columns are not read."""
    from pyarrow.parquet import read_table  # type: ignore[import-untyped]

    return sorted(read_table(file, columns=["id"])["id"].to_pylist())


def keep_mirror(catalog: StaticCatalog) -> list[str]:
    """Bring the GeoParquet files of a collection up to date, and link them; return the months that were written.

    A month is written when its file is gone or its items are others now, which the digests of the catalog's nodes say:
    nothing but the collection and its years is read for the other months. Readers see the old or the new file.

    Args:
        catalog: the collection of a catalog; where it is gone, so are its files.

    Raises:
        InvalidProduct, UnreadableCatalog: a document of the catalog cannot be read.
        InvalidItem: see `export_items`.
        PublishError: a file cannot be written.
    """
    mirror = _Mirror(catalog.target, catalog.collection_id)
    document = mirror.target.read(mirror.document_name)
    if document is None:
        return []
    months, recorded, there = mirror.months(document), _recorded(document), mirror.periods()
    written = [m for m, held in months.items() if m.period not in there or recorded.get(m.period) != held.digest]
    for month in written:
        mirror.write(month, months[month])
    for period in sorted((recorded.keys() | there) - {month.period for month in months}):
        mirror.drop(period)
    return [month.period for month in written]


@dataclass(frozen=True, slots=True)
class _Mirror:
    """The GeoParquet files of one collection."""

    target: Target
    collection: str

    @property
    def document_name(self) -> str:
        return f"{self.collection}/collection.json"

    def months(self, document: Document) -> dict[Node, Contents]:
        """Return what the months of the collection hold, from the documents of its years."""
        years = nodes_in(document, None)
        found = self.target.read_many(f"{self.collection}/{year.name}" for year in years)
        return {
            month: contents_of(link)
            for year in years
            for month, link in nodes_in(found.get(f"{self.collection}/{year.name}"), year).items()
        }

    def periods(self) -> set[str]:
        """Return the months that have a file."""
        return {Path(name).stem for name in self.target.files(f"{self.collection}/{MIRRORS}")}

    def write(self, month: Node, contents: Contents) -> None:
        """Write the file of a month and record in the collection what it holds."""
        staging = self.target.staging(f"geoparquet-{uuid.uuid4().hex[:12]}")
        name = self._file_name(month.period)
        try:
            made = staging / f"{month.period}.parquet"
            description = {**_described(self.target.read(self.document_name) or {}), CONTENTS: contents.document}
            _write(self._items(month), {self.collection: description}, staging, made)
            self.target.place(name, made)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._record(month.period, _asset(month, contents))
        # Where another run has put a file in place meanwhile, either of the two may be the older one.
        with self.target.at_hand(name) as file:
            ours = file is not None and _digest_in(file, self.collection) == contents.digest
        if not ours:
            self._record(month.period, _asset(month, Contents(items=contents.items)))

    def drop(self, period: str) -> None:
        """Remove the file of a month without items."""
        self._record(period, None)
        self.target.drop(self._file_name(period))

    def _items(self, month: Node) -> Iterator[dict[str, Any]]:
        """Yield the items that the nodes of a month link to; one that is gone meanwhile is left out."""
        ids = ids_below(self.target, self.collection, month)
        above = f"{self.target.root}/{self.collection}"
        for start in range(0, len(ids), _CHUNK):
            names = [item_name(self.collection, name) for name in ids[start : start + _CHUNK]]
            for name, document in self.target.read_many(names).items():
                own = f"{self.target.root}/{name}"
                me = {"rel": "self", "href": own, "type": "application/json"}
                yield _rebased({**document, "links": [me, *document["links"]]}, own, str(self.target.root), above, ".")

    def _record(self, period: str, asset: Mapping[str, Any] | None) -> None:
        """Make the file of a month an asset of the collection, or no longer one."""

        def build(document: Document | None) -> Document | None:
            if document is None:
                return None
            assets = {key: each for key, each in document.get("assets", {}).items() if key != _ASSET + period}
            mirrors = {_ASSET + period: asset} if asset else {}
            return {**document, "assets": assets | mirrors}

        with self.target.exclusive():
            self.target.update(self.document_name, build)

    def _file_name(self, period: str) -> str:
        return f"{self.collection}/{MIRRORS}/{period}.parquet"


def _recorded(document: Document) -> dict[str, str]:
    """Return the digests of the files of a collection by month."""
    assets = document.get("assets", {})
    return {
        key.removeprefix(_ASSET): contents_of(each).digest for key, each in assets.items() if key.startswith(_ASSET)
    }


def _asset(month: Node, contents: Contents) -> dict[str, Any]:
    return {
        "href": f"./{MIRRORS}/{month.period}.parquet",
        "type": MEDIA_TYPE,
        "title": f"Items of {month.title} as GeoParquet",
        "roles": [MIRROR_ROLE],
        CONTENTS: {"items": contents.items} | ({"digest": contents.digest} if contents.digest else {}),
    }


def _digest_in(file: Path, collection: str) -> str:
    """Return the digest of the items that a file was made of."""
    from pyarrow.parquet import read_schema

    metadata = json.loads((read_schema(file).metadata or {}).get(b"stac-geoparquet", b"{}"))
    return contents_of(metadata.get("collections", {}).get(collection, {})).digest


def _documents(
    source: StaticSource, names: Sequence[str], above: str, base: str, progress: Progress
) -> Iterator[dict[str, Any]]:
    items = ((name, item) for name in names for item in source.items(name))
    for number, (name, item) in enumerate(items, 1):
        progress(number)
        document = item.to_dict(include_self_link=True, transform_hrefs=False)
        yield _rebased(document, str(item.get_self_href()), above, f"{above}/{name}", base)


def _rebased(document: Document, own: str, root: str, collection: str, base: str) -> dict[str, Any]:
    """Return an item with every href of the catalog's own files as the reader of the file needs it.

    Args:
        document: the item; it is changed.
        own: its own path or address.
        root: folder of the catalog.
        collection: folder of its collection.
        base: see `export_items`.
    """

    def placed(href: str) -> str:
        absolute = resolve(own, href)
        if not base or not absolute.startswith(f"{root}/"):
            return absolute
        if base == ".":
            # Written as the item itself writes its assets.
            found = posixpath.relpath(absolute, collection)
            return found if found.startswith("..") else f"./{found}"
        return f"{base.rstrip('/')}/{absolute[len(root) + 1 :]}"

    for reference in (*document["assets"].values(), *document["links"]):
        reference["href"] = placed(reference["href"])
    without_empty: dict[str, Any] = _without_nulls(document)
    return {**without_empty, "geometry": document["geometry"], "links": document["links"]}


def _described(collection: Document) -> dict[str, Any]:
    """Return a collection for the metadata of the file: without the links to its parts, which the rows replace."""
    kept = [link for link in collection["links"] if link.get("rel") not in ("item", "items", "child")]
    return {**collection, "links": kept}


def _write(
    documents: Iterator[dict[str, Any]], collections: Mapping[str, Mapping[str, Any]], work: Path, file: Path
) -> int:
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow.parquet import read_metadata
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    first = next(documents, None)
    if first is None:
        raise EmptySearch("The catalog has no items, so there is nothing to export.")
    pieces = work / "pieces"
    pieces.mkdir()
    try:
        reader = parse_stac_items_to_arrow(
            chain([first], documents), chunk_size=_CHUNK, schema="ChunksToDisk", tmpdir=pieces
        )
        to_parquet(reader, file, collections=collections, compression="zstd")
    except ArrowException as error:
        raise InvalidItem(f"The items do not fit into one table ({error}); export one collection at a time.") from error
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    return int(read_metadata(file).num_rows)


def _without_nulls(value: Any) -> Any:
    """Return a JSON value without null members and empty objects: a table has the first, and cannot hold the second."""
    if isinstance(value, Mapping):
        kept = {name: _without_nulls(member) for name, member in value.items()}
        return {name: member for name, member in kept.items() if member is not None and member != {}}
    return [_without_nulls(member) for member in value] if isinstance(value, list) else value
