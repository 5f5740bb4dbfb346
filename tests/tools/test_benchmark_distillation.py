"""The distillation rows of tools/benchmarks/benchmark.py at small size."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(load_tool) -> ModuleType:
    return load_tool("benchmark_distillation")


def test_gradients_agree_to_the_last_digits(benchmark: ModuleType) -> None:
    size = benchmark.StepSize(6, 2, 2, rank=4, dtype=torch.float64)
    assert benchmark.gradients_apart(size) < 1e-10


def test_step_reaches_the_adapters_before_the_last_map(benchmark: ModuleType) -> None:
    step = benchmark.DistillationStep(benchmark.StepSize(4, 1, 2, rank=2))
    gradients = step("ours")
    # Both blocks' q and k, and the first one's v and output: A and B of each.
    assert len(gradients) == 2 * (4 + 2)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_rows(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process of its own for each way would take longer to start than the steps.
    monkeypatch.setattr(benchmark, "measure_in_process", benchmark.measure_step)
    rows = benchmark.distillation_rows(benchmark.StepSize(8, 1, 2, rank=2), repeats=1)
    assert [len(row) for row in rows] == [5, 5, 5]
    assert rows[0][0] == "distillation step, 64 tokens, 1 heads, 2 blocks, float32"
    assert all(row[3].endswith(" x") for row in rows[:2])
    assert float(rows[2][4]) < 1e-3


def test_what_does_not_fit_is_said_before_it_is_tried(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four tensors of 38 x 4096 x 4096 float32.
    assert benchmark.StepSize().plain_bytes == 4 * 38 * 4096**2 * 4
    monkeypatch.setattr(benchmark, "available_memory", lambda device: 4 * 2**30)
    with pytest.raises(MemoryError, match="4 GiB are left: use fewer heads"):
        benchmark.measure_in_process("plain", benchmark.StepSize(), 1)
