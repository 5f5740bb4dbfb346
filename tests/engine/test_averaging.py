"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("detectron2")

from torch import nn

from trace_d2.engine.averaging import ExponentialMovingAverage

pytestmark = pytest.mark.detectron2


def test_average_of_three_steps_by_hand():
    model = nn.Linear(1, 1, bias=False)
    averaging = ExponentialMovingAverage(model, decay=0.75)
    for value in (8.0, 4.0, 0.0):  # the first step is the start of the average
        nn.init.constant_(model.weight, value)
        averaging.after_step()

    # 8, then 0.75 * 8 + 0.25 * 4 = 7, then 0.75 * 7 = 5.25
    assert averaging.model.weight.item() == pytest.approx(5.25)
    assert model.weight.item() == 0.0


def test_it_resumes():
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    first = ExponentialMovingAverage(model, decay=0.5)
    first.after_step()
    second = ExponentialMovingAverage(nn.Linear(2, 2), decay=0.5)
    second.load_state_dict(first.state_dict())

    assert torch.equal(second.model.weight, first.model.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_names_its_key(decay):
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.SOLVER\.EMA_DECAY"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay)
