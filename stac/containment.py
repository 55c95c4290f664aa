"""The boundary of one item: whatever goes wrong while it is looked at is its own fault and reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stac.errors import InvalidItem, StacError

_LONGEST = 200


@contextmanager
def one_item(item_id: str) -> Iterator[None]:
    """Turn every exception but ours into `InvalidItem`, so that an odd item never stops what is done to others.

    Raises:
        InvalidItem: the item has something that was not foreseen; type and text of the exception are named.
        StacError: as raised inside.
    """
    try:
        yield
    except (StacError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST]
        raise InvalidItem(
            f"Item {item_id} cannot be used ({type(error).__name__}: {reason}); correct the item or leave it out."
        ) from error
