"""Distillation: a student learns to restore in one evaluation what its teacher restores in four.

A deterministic walk makes the image a function of its noise, so a network can learn the function itself (Luhman and
Luhman 2021, arXiv 2101.02388). The teacher walks as below whole clouds, four steps of DPM-Solver++(2M) from pure noise.
The student gets the same noise, laid on the reference, and answers at once.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from de_model.enhancer import Condition, Enhancer
from de_model.samplers.multistep import dpmpp2m
from de_model.samplers.walk import Start, Walk
from de_model.schedule import Schedule

#: Evaluations of the teacher, from pure noise.
TEACHER_STEPS = 4
#: Evaluations of the student, and the timestep to which its reference is noised.
STUDENT_STEPS, STUDENT_START = 1, 200


def frozen_copy(enhancer: Enhancer) -> Enhancer:
    """Return the model as it is now, for good; the reference, which is frozen anyway, is shared."""
    teacher = copy.deepcopy(enhancer, {id(enhancer.reference): enhancer.reference})
    return teacher.requires_grad_(False).eval()


def teacher_walk(schedule: Schedule, eps: Tensor) -> Walk:
    """Return the teacher's walk from unit Gaussian noise `(batch, band, y, x)`."""
    return Walk(schedule, TEACHER_STEPS, lambda _stream, _scale: eps)


def student_walk(schedule: Schedule, condition: Condition, eps: Tensor) -> Walk:
    """Return the student's walk from the reference under the same noise."""
    start = Start(STUDENT_START, condition.reference)
    return Walk(schedule, STUDENT_STEPS, lambda _stream, _scale: eps, start)


def estimated(enhancer: Enhancer, condition: Condition, walk: Walk) -> Tensor:
    """Return the fused estimate at the end of a walk, `(batch, band, y, x)` in [-1, 1], W limited as at inference."""
    return dpmpp2m(lambda x_t, t: enhancer.estimate(x_t, condition, t, enhancer.card.eta), walk).image


def distillation_loss(
    student: Enhancer, teacher: Enhancer, condition: Condition, eps: Tensor, counted: Tensor
) -> Tensor:
    """Return the mean squared difference of the student's estimate from the teacher's.

    It is taken over all pixels, as the teacher has an answer where no truth is known. Squared, as in the paper: what
    the student cannot tell from its input it then answers with the teacher's mean, the least error there is. Where a
    card's `clamp` holds W at an end, weight allocation has no gradient: the image is the one that will be returned.

    Args:
        student: the model in training.
        teacher: what it learns from; no gradient reaches it.
        condition: cloudy image and reference.
        eps: unit Gaussian noise `(batch, band, y, x)` that both begin with.
        counted: values the mean is taken over, those of the whole batch where this is a share of it.
    """
    with torch.no_grad():
        target = estimated(teacher, condition, teacher_walk(teacher.schedule, eps))
    found = estimated(student, condition, student_walk(student.schedule, condition, eps))
    return (found.float() - target.float()).square().sum() / counted
