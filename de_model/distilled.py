"""What a distilled student is: the one walk it can make, and whose images it learnt; without torch, as settings ask."""

from __future__ import annotations

from dataclasses import dataclass

from de_model.errors import InvalidModelInput
from de_model.samplers.kinds import SamplerKind

#: Sampler, steps, and the timestep of the start; None is pure noise.
WalkChoice = tuple[SamplerKind, int, int | None]


@dataclass(frozen=True, slots=True)
class Distilled:
    """The walk of a student, and its teacher."""

    #: Evaluations of the model per sample.
    steps: int
    #: Timestep, 0..T-1, at which the walk begins with the noised reference.
    start: int
    #: SHA-256 of the teacher's weights file: the tag `sha256` of its registered version.
    teacher_sha256: str

    def __post_init__(self) -> None:
        if any(isinstance(n, bool) or not isinstance(n, int) for n in (self.steps, self.start)):
            raise InvalidModelInput(
                f"Steps {self.steps!r} and start {self.start!r} of a student must be whole numbers."
            )
        if not 1 <= self.steps <= self.start + 1:
            raise InvalidModelInput(f"A student cannot walk {self.steps} steps from timestep {self.start} to 0.")

    @property
    def walk(self) -> WalkChoice:
        """The student's walk; a single evaluation is the same with every sampler."""
        return SamplerKind.DPMPP2M, self.steps, self.start

    @property
    def in_words(self) -> str:
        """The walk as people read it."""
        return f"{self.steps} step{'s' * (self.steps > 1)} from the reference noised to t = {self.start}"

    def check(self, steps: int, start: int | None) -> None:
        """Raise `InvalidModelInput` unless a walk is the student's; a sampler's name means nothing in one step."""
        if (steps, start) != (self.steps, self.start):
            raise InvalidModelInput(
                f"These weights were distilled for {self.in_words}, not for steps={steps} and start={start}; leave out "
                "sampler, steps and start, or use the teacher of these weights."
            )


def students_walk(
    distilled: Distilled | None, sampler: SamplerKind | str | None, steps: int | None, start: int | None
) -> WalkChoice | None:
    """Return the walk that a model brings along, or None where the choice is somebody else's.

    A walk that is named stays as it is; whether it fits the model, `Distilled.check` says.

    Args:
        distilled: of the model's card; None for a model that is no student.
        sampler: as the user named it, None where it was left out.
        steps: likewise.
        start: likewise.
    """
    if distilled is None or (sampler, steps, start) != (None, None, None):
        return None
    return distilled.walk
