"""Lists of words in one setting: `blue,green,red` in the environment and on the command line."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator


def _split(value: Any) -> Any:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


#: Part of the type of a setting, together with NoDecode: a string is words with commas between, not JSON.
Commas = BeforeValidator(_split)
