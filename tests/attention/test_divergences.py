"""Divergences against sums term by term, and what must hold of each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.attention import divergence_by_loops, mean_kl_materialised
from scipy.stats import wasserstein_distance

from trace_d2.attention import DIVERGENCES, divergence, mean_divergence

METRICS = sorted(DIVERGENCES)


def test_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    expected = {
        "kl": math.log(2),
        "jsd": 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)),
        "l1": 1.0,
        "l2": math.sqrt(0.375),
        "entropy": 0.5 * math.log(2),
        "wasserstein": 0.25 + 0.5,
    }
    assert set(expected) == set(METRICS)
    for metric, value in expected.items():
        assert float(divergence(p, q, metric)) == pytest.approx(value, abs=1e-6), metric


@st.composite
def pairs_of_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two float32 (3, n) tensors of distributions; about a quarter of the entries are 0."""
    size = draw(st.integers(2, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 5.0]))
    rows = np.exp(sharpness * generator.standard_normal((2, 3, size)))
    rows *= generator.random((2, 3, size)) > 0.25
    rows[..., 0] += 1e-3
    rows /= rows.sum(-1, keepdims=True)
    return torch.from_numpy(rows[0]).float(), torch.from_numpy(rows[1]).float()


@settings(max_examples=30, deadline=None)
@given(pairs_of_rows())
def test_equals_loops(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, q = rows
    for metric in METRICS:
        loops = [divergence_by_loops(a, b, metric) for a, b in zip(p, q, strict=True)]
        values = divergence(p, q, metric)
        assert values.shape == (3,)
        np.testing.assert_allclose(values, loops, rtol=2e-5, atol=2e-5, err_msg=metric)
        mean = mean_divergence(p, q, metric)
        assert mean == pytest.approx(math.fsum(loops) / 3, rel=2e-5, abs=2e-5)


@settings(max_examples=30, deadline=None)
@given(pairs_of_rows())
def test_properties(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, q = (row.double() / row.double().sum(-1, keepdim=True) for row in rows)
    for metric in METRICS:
        values = divergence(p, q, metric)
        assert torch.isfinite(values).all()
        assert (values >= -1e-9).all(), metric
        assert torch.equal(divergence(p, p, metric), torch.zeros(3, dtype=torch.float64)), metric
        if metric != "kl":
            torch.testing.assert_close(values, divergence(q, p, metric))
    assert (divergence(p, q, "jsd") <= math.log(2) + 1e-9).all()
    assert (divergence(p, q, "l1") <= 2 + 1e-9).all()
    assert (divergence(p, q, "l2") <= math.sqrt(2) + 1e-9).all()
    # Pinsker's inequality.
    assert (divergence(p, q, "l1") ** 2 <= 2 * divergence(p, q, "kl") + 1e-6).all()


def test_wasserstein_is_scipys() -> None:
    p = torch.softmax(torch.randn(17, generator=torch.Generator().manual_seed(0)), 0)
    q = torch.softmax(torch.randn(17, generator=torch.Generator().manual_seed(1)), 0)
    index = np.arange(17)
    expected = wasserstein_distance(index, index, p.numpy(), q.numpy())
    assert float(divergence(p, q, "wasserstein")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_mean_does_not_depend_on_chunks(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.softmax(3 * torch.randn(2, 50, 64, generator=generator), -1)
    whole = mean_divergence(p, q, metric)
    for size in (1, 256, 3000):
        monkeypatch.setattr("trace_d2.attention.divergences._CHUNK_BYTES", size)
        assert mean_divergence(p, q, metric) == pytest.approx(whole, rel=1e-6)
    if metric == "kl":
        assert whole == pytest.approx(mean_kl_materialised(p.double(), q.double()), rel=1e-5)


def test_close_maps_keep_their_digits() -> None:
    p = torch.full((1, 4096), 1 / 4096, dtype=torch.float64)
    q = p.clone()
    q[:, ::2] *= 1.001
    q[:, 1::2] *= 0.999
    exact = float(divergence(p, q, "kl"))
    assert exact == pytest.approx(5e-7, rel=1e-3)
    assert float(divergence(p.float(), q.float(), "kl")) == pytest.approx(exact, abs=2e-8)


def test_inputs_are_left_alone_and_checked() -> None:
    p, q = torch.softmax(torch.randn(2, 3, 5), -1)
    before = p.clone(), q.clone()
    for metric in METRICS:
        divergence(p, q, metric)
        mean_divergence(p, q, metric)
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])
    with pytest.raises(ValueError, match="unknown divergence 'hellinger'; known: kl"):
        divergence(p, q, "hellinger")
    with pytest.raises(ValueError, match="different shapes"):
        divergence(p, q[:2], "kl")
    with pytest.raises(ValueError, match="different shapes"):
        mean_divergence(p, q[:2], "kl")
    with pytest.raises(ValueError, match="no rows"):
        mean_divergence(p[:0], q[:0], "kl")
