"""Batches in parts: the gradient, the losses and the steps are those of the whole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trace_d2.engine.accumulation import (
    AccumulatingAMPTrainer,
    AccumulatingTrainer,
    accumulating,
    split_batch,
)
from trace_d2.engine.builders import BatchLoader


class Toy(nn.Module):
    """Two losses, each a mean over images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
        self.calls: list[int] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.calls.append(len(batched_inputs))
        output = self.layers(torch.stack([record["image"] for record in batched_inputs]))
        return {"loss_square": output.square().mean(), "loss_sine": output.sin().mean()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Toy().double()


def batch_of(count: int, dtype: torch.dtype = torch.float64) -> list[dict[str, Any]]:
    images = torch.randn(count, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return [{"image": image} for image in images]


def run(
    trainer: SimpleTrainer, iterations: int = 1
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients and logged scalars after ``iterations``."""
    with EventStorage(0) as storage:
        for number in range(iterations):
            trainer.iter = storage.iter = number
            trainer.run_step()
        logged = {name: value for name, (value, _) in storage.latest().items()}
    logged.pop("data_time")
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    return gradients, logged


@pytest.mark.parametrize(("count", "steps"), [(6, 2), (6, 6), (5, 2), (7, 3)])
def test_gradient_losses_and_weights_are_those_of_the_whole_batch(count, steps, model):
    other = copy.deepcopy(model)
    loader = [batch_of(count)] * 3
    whole = SimpleTrainer(model, loader, torch.optim.Adam(model.parameters(), 0.1))
    parts = AccumulatingTrainer(other, loader, torch.optim.Adam(other.parameters(), 0.1), steps)

    expected, logged = run(whole, 3)
    found, logged_in_parts = run(parts, 3)

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=1e-6, atol=1e-9)
    assert logged_in_parts == pytest.approx(logged)
    assert set(logged) == {"loss_square", "loss_sine", "total_loss"}
    assert model.calls == [count] * 3
    assert len(other.calls) == 3 * steps
    assert sum(other.calls) == 3 * count


@pytest.mark.parametrize(
    ("count", "parts", "lengths"), [(4, 1, [4]), (4, 2, [2, 2]), (8, 3, [3, 3, 2]), (2, 4, [1, 1])]
)
def test_parts_differ_by_one_image_at_most(count, parts, lengths):
    batch = [{"number": number} for number in range(count)]

    split = split_batch(batch, parts)

    assert [len(part) for part in split] == lengths
    assert [record for part in split for record in part] == batch


def test_losses_that_are_not_finite_end_the_training_before_a_step(model):
    batch = batch_of(4)
    batch[3]["image"][0] = torch.inf
    before = copy.deepcopy(model.state_dict())
    trainer = AccumulatingTrainer(model, [batch], torch.optim.SGD(model.parameters(), 0.1), 2)

    with pytest.raises(FloatingPointError, match="Loss became infinite or NaN at iteration=0"):
        run(trainer)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_one_loss_alone_is_logged_as_the_total():
    class One(nn.Linear):
        def forward(self, batched_inputs):
            return super().forward(torch.stack([r["image"] for r in batched_inputs])).mean()

    torch.manual_seed(0)
    model = One(5, 1)
    batch = batch_of(3, torch.float32)
    expected = model(batch).item()
    trainer = AccumulatingTrainer(model, [batch], torch.optim.SGD(model.parameters(), 0.1), 2)

    assert run(trainer)[1] == pytest.approx({"total_loss": expected})


def amp_trainer(kind: Callable[..., SimpleTrainer], model: Toy, *steps: int, scale: float = 64.0):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batch = [{"image": 100 * record["image"]} for record in batch_of(6, torch.float32)]
    return kind(model, [batch], optimizer, *steps, grad_scaler=scaler)


def test_mixed_precision_is_that_of_the_whole_batch():
    torch.manual_seed(0)
    model = Toy()
    other = copy.deepcopy(model)

    single, logged = run(amp_trainer(AccumulatingAMPTrainer, model, 1))
    parts, logged_in_parts = run(amp_trainer(AccumulatingAMPTrainer, other, 3))

    # bfloat16 has 8 bits; gradients are unscaled for the step.
    for name, gradient in single.items():
        assert (parts[name] - gradient).norm() < 0.02 * gradient.norm()
    assert logged_in_parts == pytest.approx(logged, rel=1e-2)
    assert parts["layers.0.weight"].dtype == torch.float32


def test_a_gradient_that_overflows_skips_the_step_and_lowers_the_scale():
    torch.manual_seed(0)
    model = Toy()
    before = copy.deepcopy(model.state_dict())
    trainer = amp_trainer(AccumulatingAMPTrainer, model, 2, scale=3e38)

    run(trainer)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert trainer.grad_scaler.get_scale() == pytest.approx(1.5e38, rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Detectron2's AMPTrainer needs CUDA")
def test_mixed_precision_on_cuda_is_detectron2s():
    torch.manual_seed(0)
    model = Toy().cuda()
    other = copy.deepcopy(model)
    batch = [{"image": r["image"].float().cuda()} for r in batch_of(6)]
    # The usual first scale, 2^16, is infinite in float16, in which the losses are averaged.
    scalers = [torch.amp.GradScaler("cuda", init_scale=64.0) for _ in range(2)]
    whole, old = (
        AMPTrainer(m, [batch], torch.optim.SGD(m.parameters(), 0.1), grad_scaler=scaler)
        for m, scaler in zip((model, other), scalers, strict=True)
    )
    parts = accumulating(old, 3)
    assert parts.grad_scaler is old.grad_scaler

    torch.testing.assert_close(run(parts)[0], run(whole)[0], rtol=1e-2, atol=1e-3)


def test_the_trainer_keeps_its_kind_and_its_parts(model):
    entered = []

    class Loader(BatchLoader):
        def __iter__(self):
            entered.append(True)
            yield from super().__iter__()

    loader = Loader([batch_of(4)] * 2)
    plain = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), 0.1))
    assert accumulating(plain, 1) is plain

    parts = accumulating(plain, 2)
    assert type(parts) is AccumulatingTrainer
    assert (parts.model, parts.data_loader, parts.optimizer) == (model, loader, plain.optimizer)
    run(parts)
    assert entered == [True]  # so that no second set of workers starts

    mixed = amp_trainer(AMPTrainer, Toy())
    scaled = accumulating(mixed, 2)
    assert type(scaled) is AccumulatingAMPTrainer
    assert scaled.grad_scaler is mixed.grad_scaler
    assert "grad_scaler" in scaled.state_dict()


def test_processes_exchange_gradients_once(model, tmp_path, monkeypatch):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(model)
        exchanged = []
        wrapped.register_comm_hook(None, _counting(exchanged))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        other = copy.deepcopy(model)
        whole = SimpleTrainer(other, [batch_of(6)], torch.optim.SGD(other.parameters(), 0.1))
        trainer = AccumulatingTrainer(wrapped, [batch_of(6)], optimizer, 3)

        found, _ = run(trainer)
        expected, _ = run(whole)
    finally:
        torch.distributed.destroy_process_group()

    assert len(exchanged) == 1
    torch.testing.assert_close(
        found, {f"module.{name}": value for name, value in expected.items()}, rtol=1e-9, atol=1e-12
    )


def _counting(exchanged: list[int]) -> Callable[..., Any]:
    def hook(_: object, bucket: Any) -> torch.futures.Future:
        exchanged.append(bucket.index())
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    # DDP compares the annotations with its own types, which texts are not.
    hook.__annotations__ = {"bucket": torch.distributed.GradBucket,
                            "return": torch.futures.Future[torch.Tensor]}  # fmt: skip
    return hook
