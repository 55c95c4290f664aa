"""Writing files so that they are there whole or not at all, and saying why when they cannot be."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stac.errors import DiskFull, InvalidInput, NotWritable

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
_PUBLIC_FOLDER, _PUBLIC_FILE = 0o755, 0o644
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Bytes of the name of a file, by nearly every file system.
_LONGEST_NAME = 255


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a failed write into our errors, naming `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise DiskFull(f"No room to write {path} ({reason}); free some space or choose another folder.") from error
        raise NotWritable(
            f"{path} cannot be written ({reason}); check its permissions or choose another folder."
        ) from error


def folder_problem(folder: Path) -> str:
    """Return why a folder cannot be used; empty where it can.

    Databases, links and GDAL name files by addresses, in which `?` and `#` end the path.
    """
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in folder.parts):
        return f"{str(folder)!r} has a name of more than {_LONGEST_NAME} bytes; name another folder"
    found = sorted({sign for sign in str(folder.absolute()) if sign in "?#" or not sign.isprintable()})
    if not found:
        return ""
    return (
        f"{str(folder.absolute())!r} holds {' and '.join(map(repr, found))}, which ends an address; name another folder"
    )


def require_nameable(folder: Path) -> None:
    """Raise `InvalidInput` for an address, and for a folder whose files no link or database can name."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(folder)):
        raise InvalidInput(f"{folder} is an address; name a folder, and copy what is in it with `unveil publish --to`.")
    if problem := folder_problem(folder):
        raise InvalidInput(f"{problem}.")


def require_writable(folder: Path) -> None:
    """Make a folder and try to write in it, before hours of work.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def private_state(folder: Path) -> None:
    """Make a folder that its owner alone can enter; a folder that is there stays as it is.

    Folders above it that are missing are made for everybody: one of them is the catalog. Commands also keep each file
    in it to its owner, by their umask (`flows.cli.main`).

    Raises:
        DiskFull, NotWritable: it cannot be made.
    """
    with writing(folder):
        public_folder(folder.absolute().parent)
        folder.mkdir(_PRIVATE_FOLDER, exist_ok=True)


def public_folder(folder: Path) -> None:
    """Make a folder, and those above it, that everybody may read; what is there stays as it is."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(_PUBLIC_FOLDER)


def make_public(path: Path) -> None:
    """Let everybody read a file, or a folder and all that is in it."""
    for each in (path, *path.rglob("*")):
        each.chmod(_PUBLIC_FOLDER if each.is_dir() else _PUBLIC_FILE)


def make_private(path: Path) -> None:
    """Let the owner alone read a folder and all that is in it."""
    for each in (path, *path.rglob("*")):
        each.chmod(_PRIVATE_FOLDER if each.is_dir() else _PRIVATE_FILE)


def write_json(path: Path, document: Mapping[str, Any], *, public: bool = False) -> None:
    """Replace a JSON file as `write_bytes` does."""
    write_bytes(path, json_bytes(document), public=public)


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as it is written everywhere: the same values give the same bytes."""
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, content: bytes, *, public: bool = False) -> None:
    """Replace a file atomically: readers see the old or the new one, never a part.

    Args:
        path: the file.
        content: what it holds.
        public: everybody may read it; else its owner alone.

    Raises:
        DiskFull: there is no room.
        NotWritable: the folder cannot be written.
    """
    with writing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(_PUBLIC_FILE if public else _PRIVATE_FILE)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
