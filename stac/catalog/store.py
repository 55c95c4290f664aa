"""Where catalog documents are kept: the interface, and the exchange of a folder for another."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from stac.io.s3 import Location

#: `renameat2` relative to the working directory, and its flag, from linux/fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: A kernel or a file system that does not know how.
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
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


Document = dict[str, Any]
#: What a crash leaves behind is cleared away when it has not changed for so long, seconds.
ABANDONED_S = 7 * 24 * 3600.0


class Target(Protocol):
    """A tree of documents and products. Names are paths relative to its root, with forward slashes.

    A product is there when its item is: files without an item are invisible.
    """

    @property
    def root(self) -> Location:
        """Folder or prefix of the tree."""
        ...

    def staging(self, name: str) -> Path:
        """Return an empty local folder to make a product in.

        Raises:
            NotWritable, DiskFull: it cannot be made.
        """
        ...

    def read(self, name: str) -> Document | None:
        """Return a document, None where there is none.

        Raises:
            InvalidProduct: it is not a JSON object.
        """
        ...

    def read_many(self, names: Iterable[str]) -> dict[str, Document]:
        """Return several documents by name; those that are not there are left out.

        Raises:
            InvalidProduct: one is not a JSON object.
        """
        ...

    def update(self, name: str, build: Callable[[Document | None], Document | None], *, repair: bool = False) -> None:
        """Replace a document by what `build` makes of it and of the state of the target.

        Readers see the old or the new one. Where another publisher changes it meanwhile, `build` is called again, so
        that nothing it wrote is lost. Nothing is written where `build` returns what is there already, or None.

        Args:
            name: of the document.
            build: gets the document, None where there is none.
            repair: a document that cannot be read counts as none, and not as an error.

        Raises:
            InvalidProduct: the document is not a JSON object.
            PublishError: it cannot be written.
        """
        ...

    def item_ids(self, collection: str) -> list[str]:
        """Return the ids of all products that are done, sorted: a listing of the whole collection."""
        ...

    def collection_ids(self) -> list[str]:
        """Return the ids of all collections that have a document, sorted."""
        ...

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted; none where there is no folder."""
        ...

    def holds(self, collection: str, document: Mapping[str, Any]) -> bool:
        """Return whether the product of an item is there already, whole and from the same work."""
        ...

    def sizes(self, collection: str, item_ids: Collection[str]) -> Mapping[str, Mapping[str, int]]:
        """Return the size of every file beside some items, bytes: by item, and by path relative to its folder."""
        ...

    def add(self, collection: str, staging: Path, document: Document) -> None:
        """Put a product in place, its item last. `staging` is used up.

        Raises:
            PublishError: it cannot be written; a product of the same id is as it was.
        """
        ...

    def remove(self, collection: str, item_id: str) -> None:
        """Remove a product whose link is gone.

        Raises:
            PublishError: it cannot be removed.
        """
        ...

    def remove_collection(self, collection: str) -> None:
        """Remove the documents of a collection that is empty and no longer listed.

        Raises:
            PublishError: they cannot be removed.
        """
        ...

    def prune(self, names: Iterable[str]) -> None:
        """Remove documents that hold nothing and that nothing links to, where no other publisher can be filling them.

        Raises:
            PublishError: one cannot be removed.
        """
        ...

    def place(self, name: str, file: Path) -> None:
        """Put a file in place: readers see the old or the new one. `file` comes from `staging` and is used up.

        Raises:
            PublishError: it cannot be written.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            PublishError: it cannot be removed.
        """
        ...

    def at_hand(self, name: str) -> AbstractContextManager[Path | None]:
        """Yield a file on this machine with the content of one of the target, None where there is none.

        Raises:
            TargetUnavailable: the target does not answer.
        """
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other publishers out where `add` and `update` cannot bear them.

        Raises:
            PublishError: another publisher holds the target for too long.
        """
        ...

    def sweep(self, collection: str, older_than_s: float) -> list[str]:
        """Clear away what crashes left behind and has not changed for so long; return what `item_ids` does.

        Raises:
            PublishError: it cannot be removed.
        """
        ...

    def require_writable(self) -> None:
        """Raise `NotWritable` unless the target can be written."""
        ...
