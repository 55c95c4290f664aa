"""A collection as one STAC-GeoParquet file, for whoever wants all items at once: a table instead of ten thousand files.

The layout is that of stac-geoparquet 1.0 (https://github.com/stac-utils/stac-geoparquet): one row per item, its
properties as columns, assets and links as structs, the footprint as WKB.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stac.access.locations import Location
from stac.access.s3 import S3Options
from stac.errors import EmptySearch, InvalidItem, UnreadableCatalog
from stac.sources.hrefs import resolve
from stac.sources.static import StaticSource, root_href
from stac.storage import writing
from stac.targets import Target, target_at
from stac.targets.base import Document

if TYPE_CHECKING:
    import pystac

MIRROR = "items.parquet"
MIRROR_ASSET = "geoparquet"
MIRROR_ROLE = "collection-mirror"
MEDIA_TYPE = "application/vnd.apache.parquet"
#: Items that are held in memory at once; also the rows of a row group, which readers skip by their statistics.
_CHUNK = 500
_ASSET = {
    "href": f"./{MIRROR}",
    "type": MEDIA_TYPE,
    "title": "All items as GeoParquet",
    "description": "One row per item, for DuckDB, GeoPandas and everything that reads Parquet.",
    "roles": [MIRROR_ROLE],
}
#: Told how many items have been read.
Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is written into one file, and how."""

    #: Folder, path or address of the catalog's root document or its folder.
    catalog: str
    #: Ids of the collections; all when empty.
    collections: Sequence[str] = ()
    #: What the hrefs of the catalog's own files begin with instead of the place of the catalog: an address at which it
    #: is served. Empty keeps absolute paths and addresses, `.` makes them relative to the folder of the collection.
    base: str = ""
    s3: S3Options = field(default_factory=S3Options)


def export_items(export: Export, file: Path, progress: Progress = lambda _: None) -> int:
    """Write items into a file and return how many; an older file is replaced at once.

    Memory is bounded: items are converted in pieces that wait on disk beside `file`.

    Raises:
        EmptySearch: there are no items.
        UnreadableCatalog: the catalog or one of its items cannot be read.
        InvalidItem: the same property has values of different types, so there is no common table.
        NotWritable, DiskFull: the file cannot be written.
    """
    source = StaticSource(export.catalog, s3=export.s3)
    names = list(export.collections) or source.collections()
    documents = _counted(_documents(source, names, export), progress)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    try:
        written = _write(documents, {name: _described(source, name) for name in names}, work, work / "done.parquet")
        if source.skipped:
            raise UnreadableCatalog(f"{len(source.skipped)} items are left out, so nothing was written. First: "
                                    f"{source.skipped[0].reason}")  # fmt: skip
        with writing(file):
            (work / "done.parquet").replace(file)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return written


def read_items(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a file as STAC JSON, without the nulls that a table needs."""
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    from stac_geoparquet.arrow import stac_table_to_items

    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=_CHUNK):
            for item in stac_table_to_items(_as_table(batch)):
                yield {**_without_nulls(item), "geometry": item["geometry"]}


def ids_in(file: Path) -> list[str]:
    """Return the ids of the items in a file, sorted; the other columns are not read."""
    from pyarrow.parquet import read_table

    return sorted(read_table(file, columns=["id"])["id"].to_pylist())


def keep_mirror(
    root: Location,
    collection: str,
    s3: S3Options | None = None,
    workspace: Path | None = None,
    *,
    changed: bool = False,
) -> bool:
    """Bring the GeoParquet mirror of a collection up to date, and link it; return whether it was written.

    It is left as it is when it holds the items that the collection links. Readers see the old or the new one.

    Args:
        root: folder or S3 prefix of the catalog.
        collection: id of the collection; where it is gone, so is its mirror.
        s3: where S3 is and as whom it is asked.
        workspace: local folder for files on their way to S3.
        changed: items were replaced, so that their ids do not tell.

    Raises:
        UnreadableCatalog, InvalidItem: see `export_items`.
        PublishError: the mirror cannot be written.
    """
    target, options = target_at(root, s3, workspace), s3 or S3Options()
    name = f"{collection}/{MIRROR}"
    if target.read(f"{collection}/collection.json") is None:
        target.drop(name)
        return False
    if not changed and _is_current(target, root, collection, options):
        return False
    staging = target.staging(f"{MIRROR}-{uuid.uuid4().hex[:12]}")
    try:
        made = staging / MIRROR
        export_items(Export(catalog=str(root), collections=(collection,), base=".", s3=options), made)
        target.place(name, made)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _link(target, collection)
    return True


def _is_current(target: Target, root: Location, collection: str, s3: S3Options) -> bool:
    """Tell whether the mirror holds the ids of the items that the collection links."""
    with target.at_hand(f"{collection}/{MIRROR}") as file:
        if file is None:
            return False
        source = StaticSource(str(root), s3=s3)
        linked = sorted(PurePosixPath(href).stem for href in source.item_hrefs(collection))
        return ids_in(file) == linked


def _link(target: Target, collection: str) -> None:
    """Make the mirror an asset of its collection."""
    with target.exclusive():
        target.update(f"{collection}/collection.json", _with_mirror)


def _with_mirror(collection: Document | None) -> Document | None:
    if collection is None:
        return None
    return {**collection, "assets": {**collection.get("assets", {}), MIRROR_ASSET: _ASSET}}


def _documents(source: StaticSource, names: Sequence[str], export: Export) -> Iterator[dict[str, Any]]:
    above = posixpath.dirname(root_href(export.catalog))
    for name in names:
        for item in source.items(name):
            yield _rebased(item, above, f"{above}/{name}", export.base)


def _rebased(item: pystac.Item, root: str, collection: str, base: str) -> dict[str, Any]:
    """Return an item's JSON with every href of the catalog's own files as the reader of the file needs it."""
    own = str(item.get_self_href())
    document = item.to_dict(include_self_link=True, transform_hrefs=False)

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


def _described(source: StaticSource, name: str) -> dict[str, Any]:
    """Return a collection for the metadata of the file: without the links to its parts, which the rows replace."""
    collection = source.collection(name)
    kept = [link for link in collection["links"] if link.get("rel") not in ("item", "items", "child")]
    return {**collection, "links": kept}


def _counted(documents: Iterator[dict[str, Any]], progress: Progress) -> Iterator[dict[str, Any]]:
    for number, document in enumerate(documents, 1):
        progress(number)
        yield document


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


def _as_table(batch: Any) -> Any:
    from pyarrow import Table

    return Table.from_batches([batch])


def _without_nulls(value: Any) -> Any:
    """Return a JSON value without null members and empty objects: a table has the first, and cannot hold the second."""
    if isinstance(value, Mapping):
        kept = {name: _without_nulls(member) for name, member in value.items()}
        return {name: member for name, member in kept.items() if member is not None and member != {}}
    return [_without_nulls(member) for member in value] if isinstance(value, list) else value
