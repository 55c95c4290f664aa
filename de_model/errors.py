"""Errors of the model layer: one sentence each, naming the thing and the remedy."""

from __future__ import annotations


class DeModelError(Exception):
    """Base of all errors raised by `de_model`."""

    retryable = False


class InvalidModelInput(DeModelError):
    """An array or an option the model cannot work with."""


class InvalidData(InvalidModelInput):
    """A data set on disk cannot be used: its layout is unknown, or files are missing, unreadable or do not fit."""


class InvalidCheckpoint(DeModelError):
    """A weights file is missing, truncated, of another architecture, or fails its checksum."""


class TrainingFailed(DeModelError):
    """Training cannot go on: the loss is not finite, or the data hold no usable pair."""


class OutOfMemory(DeModelError):
    """The model does not fit into the memory that is free, not even with one tile at a time."""

    retryable = True


class DeviceLost(DeModelError):
    """The GPU is lost; retry the work in a new process."""

    retryable = True
