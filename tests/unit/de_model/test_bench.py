"""What the measuring of the model counts, on the smallest model."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from de_model.bench.cost import _CPU_ATTENTION, Cost, step_cost, training_cost
from de_model.bench.peak import matmul_peak, seconds_of
from de_model.precision import Precision
from de_model.presets import Preset
from de_model.training.stages import Stage

CPU = torch.device("cpu")


def test_attention_on_a_cpu_is_counted_forward_and_backward() -> None:
    q, k, v = (torch.rand(2, 4, 64, 16, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 4 * 64 * 64 * 16
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        result = scaled_dot_product_attention(q, k, v)
    assert counter.get_total_flops() == 2 * product
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        result.sum().backward()
    # Scores again, and a product for each of the four gradients.
    assert counter.get_total_flops() == 5 * product


def test_a_step_costs_four_times_as_much_at_twice_the_side() -> None:
    small, large = (step_cost(Preset.TINY, side, CPU, Precision.FP32) for side in (64, 128))
    # Convolutions grow with the area, attention by windows, of which 128 px need a few less than four times as many.
    assert 3 < large.flops / small.flops < 5
    assert (small.batch, small.side, small.peak_bytes) == (1, 64, 0) and small.seconds > 0


def test_training_costs_about_three_times_the_forward_pass() -> None:
    found = training_cost(Preset.TINY, Stage.FINE, CPU, Precision.FP32)
    alone = step_cost(Preset.TINY, found.side, CPU, Precision.FP32)
    assert 2 < found.flops / found.batch / alone.flops < 3.2
    assert found.images_per_s == pytest.approx(found.batch / found.seconds)


def test_the_share_is_of_the_peak() -> None:
    cost = Cost(Preset.TINY, "work", 64, 2, 0.5, 10_000, 0)
    assert cost.share(40_000) == 0.5 and cost.images_per_s == 4
    assert matmul_peak(CPU, torch.float32) > 0


def test_a_call_is_timed_several_times() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(0)
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    assert seconds_of(work, CPU) >= 0.02 and len(calls) >= 3
