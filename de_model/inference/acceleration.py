"""Ways to make the engine faster, by name: what settings hold and products record, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from de_model.errors import InvalidModelInput
from de_model.precision import Precision


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How the networks are run. What differs from the defaults changes at least the last bits of a result.

    What each gains, and what it costs in quality, is measured by `python -m benchmarks.engine`.
    """

    #: Channels innermost in memory, the layout that convolutions are fastest in.
    channels_last: bool = True
    #: Number format of activations. Tiles whose values leave its range are run again in float32.
    precision: Precision = Precision.FP32
    #: Networks compiled by torch; eager where the machine cannot compile.
    compiled: bool = False
    #: A walk, all its steps, is recorded once as a CUDA graph and launched whole; on a GPU only.
    cuda_graph: bool = False
    #: 3 x 3 convolutions of large maps by Winograd's algorithm, with fewer multiplications; on a CPU only.
    winograd: bool = False
    #: Weight allocation is asked at the first step, and counted from the last at every so many; between, W is kept.
    allocation_every: int = 1

    def check(self) -> None:
        """Raise `InvalidModelInput` when a value makes no sense."""
        if self.allocation_every < 1:
            raise InvalidModelInput(f"allocation_every is {self.allocation_every}; it must be at least 1.")

    def asks_allocation(self, step: int, steps: int) -> bool:
        """Tell whether weight allocation runs at a step, 0..steps-1; the last one, whose W is kept, always does."""
        return step == 0 or (steps - 1 - step) % self.allocation_every == 0

    @property
    def by_shape(self) -> bool:
        """True where something is made for batches of one shape, and made again for every other."""
        return self.compiled or self.cuda_graph

    @property
    def recorded(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON values: part of a product's identity."""
        default = asdict(DEFAULT)
        return {name: value for name, value in asdict(self).items() if value != default[name]}


DEFAULT = Acceleration()
