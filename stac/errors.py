"""Errors of the data layer: one sentence each, naming the thing and the remedy."""

from __future__ import annotations


class StacError(Exception):
    """Base of all errors raised by `stac`."""

    retryable = False


class InvalidInput(StacError):
    """What was asked for, or the data found, cannot be used; trying again will not help."""


class InvalidQuery(InvalidInput):
    """A search argument is wrong: area, interval, cloud range, collection or band."""


class EmptySearch(InvalidInput):
    """The search matched nothing."""


class InvalidItem(InvalidInput):
    """An item lacks an asset, a band, a projection, or contradicts itself."""


class MissingExtra(InvalidInput):
    """An optional package is needed that is not installed."""


class UnsafeHref(InvalidInput):
    """An href or id points outside what its source may name."""


class UnreadableCatalog(InvalidInput):
    """A catalog, collection or item is not the JSON it should be."""


class AccessRefused(InvalidInput):
    """A source, bucket or token wants credentials that are missing, wrong, or may not do what was asked."""


class SourceUnavailable(StacError):
    """A source did not answer in time or refused for a passing reason."""

    retryable = True


class UnreadableAsset(StacError):
    """Pixels could not be read: the file is missing, truncated or not a raster."""

    retryable = True


class PublishError(StacError):
    """A product could not be written or published; nothing was left half-published."""


class NotWritable(PublishError):
    """The target folder cannot be written."""


class TargetUnavailable(PublishError):
    """The target did not answer in time or refused for a passing reason."""

    retryable = True


class DiskFull(PublishError):
    """The target ran out of space."""


class InvalidProduct(PublishError):
    """A product failed its own checks: COG layout, checksum or STAC schema."""


class IndexNotUpdated(PublishError):
    """A searchable copy of the catalog, in an API or a database, does not hold what the catalog does.

    The catalog itself is right; the next run, or `unveil publish --index`, brings the copy up to date.
    """


class IndexUnavailable(IndexNotUpdated):
    """An index did not answer in time or refused for a passing reason."""


class IndexRefused(IndexNotUpdated):
    """An index wants credentials that are missing, wrong, or may not do what was asked."""
