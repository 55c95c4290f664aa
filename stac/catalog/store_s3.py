"""A catalog in an S3 bucket: files first, the item last, links under a condition.

S3 has no rename. A product's files go below a prefix that is named by their checksums,
`COLLECTION/ITEM/CHECKSUM/data.tif`, and the item that names them is written last, in one request: it is the mark that
the product is done, and while a product is replaced readers see all of the old or all of the new one. Collection and
root are replaced only where they are still what they were when their new content was made (`If-Match`,
`If-None-Match`: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html), so that publishers at
the same time lose no link, without a lock that a crash could leave behind.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from stac.catalog.store_folder import FolderTarget, empty_folder, same_work, sweep_folders
from stac.catalog.tree import DATES, MIRRORS, Document, files_of, item_name
from stac.catalog.validation import check_id, parse_document
from stac.errors import AccessRefused, InvalidProduct, NotWritable, SourceUnavailable, TargetUnavailable
from stac.io.files import json_bytes
from stac.io.s3 import (
    ABSENT,
    Location,
    Objects,
    PreconditionFailed,
    S3Location,
    S3Object,
    S3Options,
    key_below,
    media_type_of,
)

_log = logging.getLogger("unveil")
#: Publishers at the same time make each other begin again; so many times at most.
_ATTEMPTS = 30
#: Longest wait for one answer of an S3 service, seconds.
_TIMEOUT_S = 60.0
_GEOJSON = "application/geo+json"


#: For more items than these the whole collection is listed: a request for a thousand objects, some hundred items.
_FEW_LISTINGS = 16


#: The objects of a collection by item id, each by its name below the prefix of its item.
Listed = dict[str, dict[str, S3Object]]


class S3Target:
    """A prefix in a bucket; its methods promise what those of `FolderTarget` do.

    Every method may raise `NotWritable` or `TargetUnavailable`.
    """

    def __init__(self, root: S3Location, objects: Objects, workspace: Path | None) -> None:
        self.root, self._objects, self._workspace = root, objects, workspace

    def staging(self, name: str) -> Path:
        """Return an empty folder in the local workspace."""
        return empty_folder(self._staging_folder / check_id(name))

    def read(self, name: str) -> Document | None:
        """Return a document, None where there is none."""
        content = self._objects.read(self.root / name)
        return None if content is None else parse_document(self.root / name, content)

    def read_many(self, names: Iterable[str]) -> dict[str, Document]:
        """Return several documents by name, fetched at the same time; those that are not there are left out."""
        places = {name: self.root / name for name in names}
        contents = self._objects.read_many(self.root.bucket, [place.key for place in places.values()])
        return {n: parse_document(place, contents[place.key]) for n, place in places.items() if place.key in contents}

    def update(self, name: str, build: Callable[[Document | None], Document | None], *, repair: bool = False) -> None:
        """Replace a document unless another publisher does meanwhile; then begin again with what is there now."""
        retrying = Retrying(
            retry=retry_if_exception_type(PreconditionFailed),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        )
        retrying(self._update_once, name, build, repair)

    def _update_once(self, name: str, build: Callable[[Document | None], Document | None], repair: bool) -> None:
        # The tag is taken before anything is read: what is published in between changes the tag, too.
        place = self.root / name
        seen = self._objects.head(place)
        try:
            current = None if seen is None else self.read(name)
        except InvalidProduct:
            if not repair:
                raise
            current = None
        document = build(current)
        if document is not None and document != current:
            expected = ABSENT if seen is None else seen.etag
            self._objects.write(place, json_bytes(document), _media_type(place), expected)

    def item_ids(self, collection: str) -> list[str]:
        """Return the ids of all products that are done, sorted."""
        return _done(self._listed(collection))

    def collection_ids(self) -> list[str]:
        """Return the ids of all collections that have a document, sorted."""
        names = self._objects.folders(self.root)
        found = [name for name in names if self._objects.head(self.root / name / "collection.json")]
        return sorted(name for name in found if not name.startswith("."))

    def files(self, folder: str) -> list[str]:
        """Return the names of the objects below a prefix, sorted."""
        prefix = self.root / folder
        return sorted(key_below(prefix, each.key) for each in self._objects.listing(prefix))

    def holds(self, collection: str, document: Mapping[str, Any]) -> bool:
        """Return whether the product of an item is there already: same work, and every file with its size."""
        try:
            found = self.read(item_name(collection, str(document["id"])))
        except InvalidProduct:  # damaged: it is replaced
            return False
        return found is not None and same_work(found, document) and self._is_whole(collection, found)

    def sizes(self, collection: str, item_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """Return the size of every object below the prefixes of some items: a listing each, or one of all for many."""
        if len(item_ids) > _FEW_LISTINGS:
            listed = self._listed(collection)
            return {i: {name: each.size for name, each in listed.get(i, {}).items()} for i in item_ids}
        places = {item_id: self.root / collection / item_id for item_id in item_ids}
        return {
            item_id: {key_below(above, each.key): each.size for each in self._objects.listing(above)}
            for item_id, above in places.items()
        }

    def add(self, collection: str, staging: Path, document: Document) -> None:
        """Upload the files, then the item. Where the same work arrives from elsewhere meanwhile, that one stays."""
        place = self.root / item_name(collection, document["id"])
        version = _version(document)
        seen = self._objects.head(place)
        for name in files_of(document):
            self._objects.upload(staging / name, place.parent / version / name, media_type_of(name))
        moved = _moved(document, version)
        if not self._is_whole(collection, moved):
            raise InvalidProduct(f"Item {document['id']}: its files did not arrive whole in {self.root}; run it again.")
        try:
            expected = ABSENT if seen is None else seen.etag
            self._objects.write(place, json_bytes(moved), _GEOJSON, expected)
        except PreconditionFailed:
            if not self.holds(collection, document):
                raise
        shutil.rmtree(staging, ignore_errors=True)

    def remove(self, collection: str, item_id: str) -> None:
        """Remove a product whose link is gone: the item first, so that it never names a file that is gone."""
        place = self.root / item_name(collection, item_id)
        self._objects.remove(place.bucket, [place.key])
        self._objects.remove(place.bucket, [each.key for each in self._objects.listing(place.parent)])

    def remove_collection(self, collection: str) -> None:
        """Remove the documents of a collection that is empty."""
        above = self.root / collection
        below = [each.key for folder in (DATES, MIRRORS) for each in self._objects.listing(above / folder)]
        names = [f"{above.key}/{name}" for name in ("collection.json", ".source-collection.json")]
        self._objects.remove(above.bucket, [*names, *below])

    def prune(self, names: Iterable[str]) -> None:
        """Nothing: another publisher may be filling them, and a small document that nothing links to does no harm."""

    def place(self, name: str, file: Path) -> None:
        """Upload a file: S3 shows it when it is whole."""
        self._objects.upload(file, self.root / name, media_type_of(name))
        file.unlink()

    def drop(self, name: str) -> None:
        """Remove an object."""
        place = self.root / name
        self._objects.remove(place.bucket, [place.key])

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path | None]:
        """Yield a copy in a temporary folder."""
        if self._objects.head(self.root / name) is None:
            yield None
            return
        with self._objects.at_hand(self.root / name) as copy:
            yield copy

    def exclusive(self) -> AbstractContextManager[None]:
        """Nothing: every write bears others."""
        return nullcontext()

    def sweep(self, collection: str, older_than_s: float) -> list[str]:
        """Remove old files that no item names: uploads that a crash cut off, and products that were replaced."""
        sweep_folders(self._staging_folder, older_than_s)
        listed, now = self._listed(collection), datetime.now(UTC)
        old = {
            item_id: [name for name, o in found.items() if (now - o.modified).total_seconds() > older_than_s]
            for item_id, found in listed.items()
        }
        # Whether an item names a file is only asked where an item lies beside files it might not name.
        suspects = {item_id: names for item_id, names in old.items() if names and _is_crowded(listed, item_id)}
        done = set(_done(listed))
        documents = self.read_many(item_name(collection, item_id) for item_id in suspects if item_id in done)
        for item_id, names in suspects.items():
            document = documents.get(item_name(collection, item_id))
            if item_id in done and document is None:
                continue
            kept = {f"{item_id}.json", *files_of(document or {"assets": {}})}
            above = self.root / collection / item_id
            self._objects.remove(self.root.bucket, [f"{above.key}/{name}" for name in names if name not in kept])
        return sorted(done)

    def require_writable(self) -> None:
        """Write, and remove, a small object; say so where the service does not know conditions."""
        probe = self.root / f".unveil-{uuid.uuid4().hex}"
        self._objects.write(probe, b"", "application/octet-stream")
        try:
            self._objects.write(probe, b"", "application/octet-stream", ABSENT)
            _log.warning(
                "%s does not support conditional writes; let one run at a time publish there, or links may be lost "
                "until the next run.", self.root
            )  # fmt: skip
        except PreconditionFailed:
            pass
        finally:
            self._objects.remove(probe.bucket, [probe.key])

    @property
    def _staging_folder(self) -> Path:
        if self._workspace is None:
            raise NotWritable(f"{self.root} needs a local folder to make products in; give --state-dir.")
        return self._workspace / "staging"

    def _listed(self, collection: str) -> Listed:
        found: Listed = {}
        prefix = self.root / collection
        for each in self._objects.listing(prefix):
            item_id, _, name = key_below(prefix, each.key).partition("/")
            if name and item_id[:1] not in (".", "_"):
                found.setdefault(item_id, {})[name] = each
        return found

    def _is_whole(self, collection: str, document: Mapping[str, Any]) -> bool:
        there = self.sizes(collection, [str(document["id"])])[str(document["id"])]
        return all(there.get(name) == size for name, size in files_of(document).items())


Target = FolderTarget | S3Target


def target_at(root: Location, s3: S3Options | None = None, workspace: Path | None = None) -> Target:
    """Return the target at a location.

    Args:
        root: folder or S3 prefix of the catalog.
        s3: where S3 is and as whom it is asked.
        workspace: local folder in which products for S3 are made; a folder target needs none.
    """
    if isinstance(root, S3Location):
        return S3Target(root, TargetObjects(s3 or S3Options(), _TIMEOUT_S), workspace)
    return FolderTarget(root)


class TargetObjects(Objects):
    """The objects of a service that is published to: what it refuses is an error of publishing."""

    @contextmanager
    def _asking(self, place: S3Location) -> Iterator[None]:
        try:
            with super()._asking(place):
                yield
        except AccessRefused as error:
            raise NotWritable(str(error)) from error
        except SourceUnavailable as error:
            raise TargetUnavailable(str(error)) from error


def _media_type(place: S3Location) -> str:
    return _GEOJSON if place.stem == place.parent.name else media_type_of(place.key)


def _version(document: Mapping[str, Any]) -> str:
    """Return a name that follows from the content of all files."""
    sums = sorted(f"{key} {asset['file:checksum']}" for key, asset in document["assets"].items())
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()[:12]


def _moved(document: Document, version: str) -> Document:
    """Return the item with its files in the folder of their version."""
    assets = {
        key: asset | {"href": f"./{version}/{str(asset['href']).removeprefix('./')}"}
        for key, asset in document["assets"].items()
    }
    return document | {"assets": assets}


def _done(listed: Listed) -> list[str]:
    """Return the ids of the items that have their document, sorted."""
    return sorted(item_id for item_id, found in listed.items() if f"{item_id}.json" in found)


def _is_crowded(listed: Listed, item_id: str) -> bool:
    """Return whether files without an item, or of more than one version, lie in an item's prefix."""
    names = listed[item_id]
    return f"{item_id}.json" not in names or len({name.partition("/")[0] for name in names if "/" in name}) > 1
