"""Settings of who restores the units, and how many at once: no pixel depends on them (docs/scale.md)."""

from __future__ import annotations

from pydantic import BaseModel, Field

from flows.runners.kinds import RunnerKind
from flows.settings.kinds import Device


class RunningSettings(BaseModel):
    """Devices, workers, and what they cost."""

    device: Device = Device.AUTO
    # Who restores the units, and how many at once: no pixel depends on it (docs/scale.md).
    runner: RunnerKind = Field(
        RunnerKind.SERIAL, description="work units one after the other (serial), or in threads, processes or dask"
    )
    workers: int | None = Field(
        None, ge=1, le=1000, description="units that are restored at once; one for each core, or GPU, when left out"
    )
    worker_threads: int | None = Field(
        None, ge=1, description="threads of numeric libraries in each worker; the cores shared out when left out"
    )
    dask_scheduler: str | None = Field(
        None, description="address of a Dask scheduler, e.g. tcp://HOST:8786; a cluster of this machine when left out"
    )
    allow_invalid: bool = Field(
        False, description="a run in which scenes are INVALID succeeds all the same; one that FAILED never does"
    )
    price_per_hour: float = Field(0, ge=0, description="of this machine, in any currency: for the cost of a scene")
