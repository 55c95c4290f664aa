"""Words that settings are made of."""

from __future__ import annotations

from enum import StrEnum, unique

#: The word for the sample that ships with the package, served as a STAC API on loopback.
SAMPLE = "sample"


@unique
class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@unique
class GapFilling(StrEnum):
    """What fills pixels that no date saw."""

    #: For every kind of pixel what was best on places that the model never saw.
    VALIDATED = "validated"
    #: The model, whatever its validation record says.
    MODEL = "model"


@unique
class ModelFallback(StrEnum):
    """What a run does when its model cannot be had: no registry, no such alias, a changed artefact."""

    #: Stop and tell why.
    ERROR = "error"
    #: Use the weights that come with the package.
    SHIPPED = "shipped"


@unique
class GateMode(StrEnum):
    """Whether products are judged before they are published."""

    ON = "on"
    OFF = "off"


@unique
class GridKind(StrEnum):
    """Which cells the work is divided into."""

    #: The grid of each scene, such as an MGRS tile.
    NATIVE = "native"
    #: The same cells for all scenes, across tiles and zones.
    FIXED = "fixed"
