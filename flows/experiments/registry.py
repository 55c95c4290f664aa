"""All experiments by name."""

from __future__ import annotations

from flows.errors import InvalidSettings
from flows.experiments import (
    coarse_to_fine,
    cross_data,
    eta_sweep,
    fixed_weights,
    gaps,
    no_reference,
    reference_quality,
    resolution_transfer,
    samplers,
    student,
)
from flows.experiments.setting import Experiment, ExperimentName

_ALL = (
    Experiment(
        ExperimentName.NO_REFERENCE,
        "What does the diffusion make of a cloud when no reference steers it?",
        trains=True,
        judges=True,
        run=no_reference.run,
    ),
    Experiment(
        ExperimentName.FIXED_WEIGHTS,
        "Is a learnt W per band and pixel better than one W for all?",
        trains=False,
        judges=True,
        run=fixed_weights.run,
    ),
    Experiment(
        ExperimentName.COARSE_TO_FINE,
        "Does it pay to train on thinned imagery first?",
        trains=True,
        judges=False,
        run=coarse_to_fine.run,
    ),
    Experiment(
        ExperimentName.ETA_SWEEP,
        "How much of the reference must be kept under thin cloud, thick cloud and shadow?",
        trains=False,
        judges=True,
        run=eta_sweep.run,
    ),
    Experiment(
        ExperimentName.RESOLUTION_TRANSFER,
        "What does a model of one pixel size do on imagery of another?",
        trains=False,
        judges=True,
        run=resolution_transfer.run,
    ),
    Experiment(
        ExperimentName.REFERENCE_QUALITY,
        "Does weight allocation notice how good the reference is?",
        trains=False,
        judges=True,
        run=reference_quality.run,
    ),
    Experiment(
        ExperimentName.CROSS_DATA,
        "What does a model of one data set do on another?",
        trains=True,
        judges=False,
        run=cross_data.run,
    ),
    Experiment(
        ExperimentName.SAMPLERS,
        "Which sampler gives the best image for how many evaluations?",
        trains=False,
        judges=True,
        run=samplers.run,
    ),
    Experiment(
        ExperimentName.GAPS,
        "How should the model walk in the small gaps that other dates leave?",
        trains=False,
        judges=True,
        run=gaps.run,
    ),
    Experiment(
        ExperimentName.STUDENT,
        "What does a distilled student restore in one step, beside the walks of its teacher?",
        trains=True,
        judges=True,
        run=student.run,
    ),
)
EXPERIMENTS: dict[ExperimentName, Experiment] = {experiment.name: experiment for experiment in _ALL}


def experiment_named(name: str) -> Experiment:
    """Return an experiment.

    Raises:
        InvalidSettings: there is none of this name.
    """
    try:
        return EXPERIMENTS[ExperimentName(name)]
    except (ValueError, KeyError) as error:
        raise InvalidSettings(f"Experiment {name} is unknown; choose one of {', '.join(EXPERIMENTS)}.") from error
