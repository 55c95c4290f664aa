"""What a challenger must show before it makes mosaics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from flows.errors import InvalidSettings
from flows.models.contest import Contest


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits; the defaults let a challenger pass that is not worse than the champion."""

    #: A challenger whose gain in PSNR may be lower than this is refused: the lower end of its interval, dB.
    least_gain_db: float = -0.02
    #: Mean PSNR over blocks that a challenger must reach whatever the champion does, dB.
    least_psnr_db: float = 20.0
    #: Time of the challenger over that of the champion on the same scenes.
    most_time_ratio: float = 1.5
    #: Size of the weights file, bytes.
    most_bytes: int = 40_000_000
    #: Blocks without which nothing can be said.
    least_blocks: int = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger passed, and what it failed on, one sentence each."""

    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Tell whether nothing speaks against the challenger."""
        return not self.reasons


def judge(contest: Contest, gates: Gates) -> Verdict:
    """Return the verdict on the challenger of a contest."""
    gain = contest.gain
    size_mb = contest.challenger.size_bytes / 1e6
    interval = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) dB"
    checks = (
        (
            gain.images >= gates.least_blocks,
            f"Only {gain.images} blocks were compared, {gates.least_blocks} are needed; add cells or dates.",
        ),
        (
            gain.low >= gates.least_gain_db,
            f"PSNR above the champion's is {interval}; its lower end must be {gates.least_gain_db:+.3f} dB or more.",
        ),
        (
            contest.challenger.psnr >= gates.least_psnr_db,
            f"PSNR is {contest.challenger.psnr:.2f} dB, less than {gates.least_psnr_db:.2f} dB.",
        ),
        (
            contest.time_ratio <= gates.most_time_ratio,
            f"It takes {contest.time_ratio:.2f} times the champion's time, more than {gates.most_time_ratio:.2f}.",
        ),
        (
            contest.challenger.size_bytes <= gates.most_bytes,
            f"Its weights take {size_mb:.0f} MB, more than {gates.most_bytes / 1e6:.0f} MB.",
        ),
    )
    return Verdict(tuple(reason for holds, reason in checks if not holds))


def load_gates(path: Path | None) -> Gates:
    """Return the gates of a YAML file; the defaults without one.

    Raises:
        InvalidSettings: the file cannot be read, or a name or value in it is wrong.
    """
    if path is None:
        return Gates()
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
        unknown = set(values) - set(Gates.__dataclass_fields__)
        if unknown:
            known = ", ".join(Gates.__dataclass_fields__)
            raise InvalidSettings(f"{path}: gate {min(unknown)} is unknown; known are {known}.")
        found: Gates = TypeAdapter(Gates).validate_python(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidSettings(
            f"{path} holds no gates ({reason}); write lines such as `least_gain_db: 0.05`."
        ) from error
    return found
