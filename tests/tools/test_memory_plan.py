"""The plan of a GPU's memory: counts against sums by hand."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def memory_plan(load_tool):
    return load_tool("benchmarks.memory_plan")


def test_live_bytes_are_those_of_tensors_that_live(load_tool):
    live_memory = load_tool("benchmarks.live_memory")
    start = torch.empty(10, device="meta")
    with live_memory.LiveBytes() as live:
        first = start + 1  # 40 bytes
        view = first.view(2, 5)
        del first
        second = torch.empty(100, device="meta")  # 400 more, as the view keeps the first
        del view, second
        third = start.expand(3, 10).contiguous()  # 120
    assert (live.peak, live.live) == (440, 120)
    del third
    assert live.live == 0


def test_attention_takes_its_output_alone(load_tool):
    live_memory = load_tool("benchmarks.live_memory")
    query = torch.empty(1, 2, 64, 8, device="meta")
    with live_memory.FusedAttention(), live_memory.LiveBytes() as live:
        output = torch.nn.functional.scaled_dot_product_attention(query, key=query, value=query)
    assert output.shape == query.shape
    assert live.peak == output.numel() * 4


def test_the_plan_of_a_published_model(memory_plan, monkeypatch):
    monkeypatch.setattr(memory_plan, "_activations", lambda _: 1e9)
    plans = memory_plan.plans("pixart-alpha")
    whole, few = plans["bf16"], plans["nf4"]
    # 0.61 billion weights, and a map of 4096 x 4096 with 16 MiB of scratch.
    assert whole.denoiser == pytest.approx(1.22e9, rel=0.02)
    assert whole.reading == 4 * 4096**2 + 2**24
    assert (whole.adapters, whole.layer) == (0, 0)
    # 28 blocks of 4 x 1152^2 twice (attention) and 8 x 1152^2 (feed-forward), in 4.5 bits.
    blocks = 28 * 16 * 1152**2
    assert whole.denoiser - few.denoiser == pytest.approx(blocks * (2 - 0.5625))
    assert few.layer == 2 * 4 * 1152**2
    assert whole.blocks < 0.1 * whole.denoiser
    assert few.total < whole.total
    assert whole.grouped < whole.total


def test_the_table_has_a_row_for_each_kind_of_weights(memory_plan, monkeypatch, capsys):
    made = memory_plan.Plan(*(1e9 * number for number in range(8, 0, -1)))
    monkeypatch.setattr(memory_plan, "plans", lambda *_: {"bf16": made, "nf4": made})
    assert memory_plan.main(["--models", "sd15"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        f"| sd15 | {kind} | 8.00 | 5.00 | 4.00 | 3.00 | 2.00 | 23.60 | 23.60 |"
        for kind in ("bf16", "nf4")
    ]
