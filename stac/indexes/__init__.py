"""Searchable copies of a catalog: a STAC API, or pgstac's database, behind one small interface."""

from __future__ import annotations

from stac.indexes.base import Index
from stac.indexes.opening import index_label, index_secret, open_index

__all__ = ["Index", "index_label", "index_secret", "open_index"]
