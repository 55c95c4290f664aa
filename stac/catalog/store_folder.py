"""A catalog in a folder: a product arrives with its item in one rename.

`store_s3` has the same methods for a prefix in a bucket, and keeps the same promises. Names are paths relative to the
root, with forward slashes; a product is there when its item is, and files without an item are invisible.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stac.catalog.tree import DATES, Document, item_name
from stac.catalog.validation import check_id, item_problems, read_document
from stac.errors import InvalidProduct, NotWritable, PublishError
from stac.io.files import make_public, public_folder, write_json, writing

_LOCK_TIMEOUT_S = 120.0
#: A waiting publisher looks so often whether it is its turn, seconds.
_POLL_S = 0.01
_STAGING = ".staging"
#: `renameat2` relative to the working directory, and its flag, from linux/fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: A kernel or a file system that does not know how.
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}


class FolderTarget:
    """A folder of this machine, or one that is mounted.

    Every method may raise `NotWritable`, `DiskFull`, or, where a document is not a JSON object, `InvalidProduct`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def staging(self, name: str) -> Path:
        """Return an empty folder on the catalog's own file system."""
        return empty_folder(self.root / _STAGING / check_id(name))

    def read(self, name: str) -> Document | None:
        """Return a document, None where there is none."""
        path = self.root / name
        with writing(path):  # a missing permission is reported
            return read_document(path) if path.is_file() else None

    def read_many(self, names: Iterable[str]) -> dict[str, Document]:
        """Return several documents by name; those that are not there are left out."""
        found = ((name, self.read(name)) for name in names)
        return {name: document for name, document in found if document is not None}

    def update(self, name: str, build: Callable[[Document | None], Document | None], *, repair: bool = False) -> None:
        """Replace a document by what `build` makes of it: readers see the old or the new one.

        On S3 `build` is called again where another publisher changed the document meanwhile; here `exclusive` keeps
        others out. Nothing is written where it returns what is there already, or None.

        Args:
            name: of the document.
            build: gets the document, None where there is none.
            repair: a document that cannot be read counts as none, and not as an error.
        """
        try:
            current = self.read(name)
        except InvalidProduct:
            if not repair:
                raise
            current = None
        document = build(current)
        if document is None or document == current:
            return
        path = self.root / name
        with writing(path):
            public_folder(path.parent)
        write_json(path, document, public=True)

    def item_ids(self, collection: str) -> list[str]:
        """Return the ids of all products that are done, sorted: a listing of the whole collection."""
        above = self.root / collection
        names = sorted(os.listdir(above)) if above.is_dir() else []  # noqa: PTH208 - ten thousands of them
        return [name for name in names if name[0] not in "._" and (above / name / f"{name}.json").is_file()]

    def collection_ids(self) -> list[str]:
        """Return the ids of all collections that have a document, sorted."""
        return sorted(path.parent.name for path in self.root.glob("[!.]*/collection.json"))

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        return sorted(path.name for path in (self.root / folder).glob("*") if path.is_file())

    def holds(self, collection: str, document: Mapping[str, Any]) -> bool:
        """Return whether the product of an item is there already, whole and from the same work."""
        path = self._item_path(collection, str(document["id"]))
        return path.is_file() and not item_problems(path) and same_work(read_document(path), document)

    def sizes(self, collection: str, item_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """Return the size of every file beside some items, bytes, by item and path."""
        found = {}
        for item_id in item_ids:
            folder = self._item_path(collection, item_id).parent
            with writing(folder):
                files = (path for path in folder.rglob("*") if path.is_file())
                found[item_id] = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        return found

    def add(self, collection: str, staging: Path, document: Document) -> None:
        """Put a product in place in one rename, in place of an older one of its id. `staging` is used up."""
        folder = self._item_path(collection, document["id"]).parent
        write_json(staging / f"{folder.name}.json", document)
        with writing(folder):
            public_folder(folder.parent)
            make_public(staging)
            if not folder.exists():
                staging.rename(folder)
            elif _exchange(staging, folder):
                shutil.rmtree(staging, ignore_errors=True)
            else:
                _step_aside(staging, folder)

    def remove(self, collection: str, item_id: str) -> None:
        """Remove a product whose link is gone."""
        folder = self._item_path(collection, item_id).parent
        with writing(folder):
            shutil.rmtree(folder)

    def remove_collection(self, collection: str) -> None:
        """Remove the folder of a collection that is empty."""
        with writing(self.root / collection):
            shutil.rmtree(self.root / collection)

    def prune(self, names: Iterable[str]) -> None:
        """Remove documents that nothing links to, and their folders; `exclusive` keeps others out."""
        for name in names:
            self.drop(name)
            with suppress(OSError):  # a half-written file lies there still, until it is swept
                (self.root / name).parent.rmdir()

    def place(self, name: str, file: Path) -> None:
        """Put a file from `staging` in place: readers see the old or the new one."""
        path = self.root / name
        with writing(path):
            make_public(file)
            public_folder(path.parent)
            file.replace(path)

    def drop(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        path = self.root / name
        with writing(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path | None]:
        """Yield the file itself."""
        path = self.root / name
        yield path if path.is_file() else None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one publisher at a time change the catalog.

        Raises:
            PublishError: another one holds it for too long.
        """
        with writing(self.root):
            public_folder(self.root)
            lock = FileLock(self.root / ".publish.lock", timeout=_LOCK_TIMEOUT_S, poll_interval=_POLL_S)
            try:
                lock.acquire()
            except Timeout as error:
                raise PublishError(
                    f"Another process has held {self.root} for {_LOCK_TIMEOUT_S:.0f} s; stop it or try later."
                ) from error
        try:
            yield
        finally:
            lock.release()

    def sweep(self, collection: str, older_than_s: float) -> list[str]:
        """Clear away what crashes left and has not changed for so long; return what `item_ids` does.

        A product that a crash left aside is put back.
        """
        sweep_folders(self.root / _STAGING, older_than_s)
        dates = self.root / collection / DATES
        for above in (self.root, self.root / collection, *(path for path in dates.rglob("*") if path.is_dir())):
            _sweep_unfinished(above, older_than_s)
        for aside in sorted((self.root / collection).glob(".*.old")):
            folder = aside.with_name(aside.name.removeprefix(".").removesuffix(".old"))
            with self.exclusive(), writing(folder):
                if aside.exists() and not folder.exists():
                    aside.rename(folder)
                shutil.rmtree(aside, ignore_errors=True)
        return self.item_ids(collection)

    def require_writable(self) -> None:
        """Raise unless the folder, or the nearest one above it that exists, can be written."""
        place = next(p for p in (self.root.absolute(), *self.root.absolute().parents) if p.exists())
        if not (place.is_dir() and os.access(place, os.W_OK)):
            reason = "no permission to write" if place.is_dir() else "no folder"
            raise NotWritable(f"{self.root} cannot be written ({place}: {reason}); check it or choose another folder.")

    def _item_path(self, collection: str, item_id: str) -> Path:
        return self.root / item_name(collection, item_id)


def _exchange(one: Path, other: Path) -> bool:
    """Give each of two folders of one file system the other's name; False where the system does not know how.

    Raises:
        OSError: it knows how, and refuses.
    """
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(other))


@lru_cache(maxsize=1)
def _renameat2() -> Any:
    """Return the C library's function, None where it has none (before glibc 2.28, and off Linux)."""
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None


def _step_aside(staging: Path, folder: Path) -> None:
    """Replace a folder where the file system cannot do it in one step; `sweep` puts it back after a crash."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        staging.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def same_work(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two items are of the same work."""
    return bool(one["properties"]["unveil:work_id"] == other["properties"]["unveil:work_id"])


def empty_folder(folder: Path) -> Path:
    """Return a folder that is there and empty.

    Raises:
        NotWritable, DiskFull: it cannot be made.
    """
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return folder


def sweep_folders(above: Path, older_than_s: float) -> None:
    """Remove the folders in which nothing has changed for so long."""
    for folder in sorted(above.glob("*/")):
        try:
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
        except FileNotFoundError:  # its owner is at work
            continue
        if time.time() - newest > older_than_s:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep_unfinished(above: Path, older_than_s: float) -> None:
    """Remove the temporary files of documents whose writer was killed (`write_json`)."""
    for path in sorted(above.glob(".*.json.*")):
        with suppress(FileNotFoundError):  # its writer is at work
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()
