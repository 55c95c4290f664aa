"""Which links and ids a catalog may name: what it says is data from outside and is checked before use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from stac.errors import UnsafeHref
from stac.io.addresses import check_address, host_of, is_web
from stac.io.s3 import is_s3
from stac.io.secrets import keep

#: What a remote catalog may name. `file`, `zip+file` and GDAL's `/vsi...` paths would read this machine.
_REMOTE_SCHEMES = frozenset({"http", "https", "s3", "gs", "az", "azure", "abfs", "abfss"})
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more: C:\ is a drive
#: Characters of a URL that stay as they are; others, such as blanks, are percent-encoded.
_LEGAL = "%:/?#[]@!$&'()*+,;=~-._"
_ID = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")


def is_remote(href: str) -> bool:
    """Return whether an href is a URL of a document on a web server or in S3."""
    return is_web(href) or is_s3(href)


def checked_id(name: object) -> str:
    """Return an item or collection id. It is not a file name: products are named by `stac.catalog.validation.safe_id`.

    Raises:
        UnsafeHref: it is not text, empty, longer than 255 characters, or holds control characters.
    """
    if not isinstance(name, str) or not _ID.fullmatch(name) or not name.strip():
        raise UnsafeHref(f"The id {name!r} cannot be used; ids are text of 1 to 255 characters, none of them control.")
    return name


def resolve(base: str, href: object) -> str:
    """Return the absolute form of an href found in the document at `base`.

    Args:
        base: URL or absolute path of the document.
        href: what the document says.

    Raises:
        UnsafeHref: the href is not text, its scheme is unknown, or a remote document names a local file or, from
            outside, an address of this machine's own network.
    """
    if not isinstance(href, str) or not href.strip() or "\x00" in href:
        raise UnsafeHref(f"{base} names {href!r}, which is not a link.")
    found = _joined(base, href) if is_remote(base) else href
    if is_remote(found):
        found = quote(found, safe=_LEGAL)
    scheme = urlsplit(found).scheme.lower() if _SCHEME.match(found) else ""
    if scheme in _REMOTE_SCHEMES:
        if is_web(base) and is_web(found):
            _check_from_outside(base, found)
        return keep(found)
    if is_remote(base):
        raise UnsafeHref(f"{base} names {href!r}, which is not on a server; a remote catalog may not name local files.")
    if scheme not in ("", "file"):
        raise UnsafeHref(f"{base} names {href!r}: links of kind {scheme!r} are not read.")
    path = unquote(urlsplit(found).path) if scheme == "file" else _on_disk(Path(base).parent, found)
    absolute = os.path.normpath(Path(base).parent / path)
    if absolute.lstrip("/").startswith("vsi"):  # also //vsizip/... and file:///vsizip/...
        raise UnsafeHref(f"{base} names {href!r}, a virtual path; name the file itself.")
    return absolute


def _on_disk(folder: Path, href: str) -> str:
    """Return the path that a relative href means: as written where there is such a file, else decoded."""
    for path in (href, unquote(href), unquote(href.split("?")[0].split("#")[0])):
        if "\x00" not in path and os.path.lexists(folder / path):
            return path
    return href


def _check_from_outside(base: str, found: str) -> None:
    """Do nothing unless a document on the internet names an address inside this network.

    A document inside it was named by the user; what it links to is checked when that is opened.

    Raises:
        UnsafeHref: it does.
    """
    if host_of(found) == host_of(base):
        return
    try:
        check_address(base)
    except UnsafeHref:
        return
    try:
        check_address(found)
    except UnsafeHref as error:
        raise UnsafeHref(f"{base} names {found!r}, which is not followed: {error}") from error


def _joined(base: str, href: str) -> str:
    """Join an href to the URL of its document. `urljoin` does not support `s3:` and would drop the base."""
    if not is_s3(base) or _SCHEME.match(href):
        return urljoin(base, href)
    return "s3:" + urljoin("https:" + base[len("s3:") :], href).removeprefix("https:")
