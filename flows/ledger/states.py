"""The states of a work unit and the ways from one to the next."""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class State(StrEnum):
    """Where a work unit stands."""

    #: Promised to a run that has not begun with it.
    CLAIMED = "CLAIMED"
    #: Being worked on by a run.
    RUNNING = "RUNNING"
    #: Published.
    SUCCEEDED = "SUCCEEDED"
    #: Something broke; another try may help.
    FAILED = "FAILED"
    #: The input cannot be used; another try will not help.
    INVALID = "INVALID"
    #: Stopped by a person or a signal.
    ABORTED = "ABORTED"


#: States in which a run holds a unit, under a lease.
HELD = frozenset({State.CLAIMED, State.RUNNING})
#: States in which nobody works on a unit.
ENDED = frozenset(State) - HELD

#: A claim is open to every state that has ended; a held one only opens when its lease has run out.
_NEXT: dict[State, frozenset[State]] = {
    State.CLAIMED: frozenset({State.RUNNING}) | ENDED,
    State.RUNNING: ENDED,
    State.SUCCEEDED: frozenset({State.CLAIMED}),
    State.FAILED: frozenset({State.CLAIMED, State.SUCCEEDED}),
    State.INVALID: frozenset({State.CLAIMED, State.SUCCEEDED}),
    State.ABORTED: frozenset({State.CLAIMED, State.SUCCEEDED}),
}


def allowed(before: State, after: State) -> bool:
    """Tell whether a unit may go from one state to another."""
    return after in _NEXT[before]


def leading_to(state: State) -> tuple[State, ...]:
    """Return the states from which a unit may come to `state`."""
    return tuple(before for before in State if allowed(before, state))
