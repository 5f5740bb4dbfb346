"""Leaving a forward pass once all that is read was read, and maps kept for later."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader, native_attention

FAMILIES = ("sd15", "sdxl", "pixart", "sd3", "flux")
ATTEND = functional.scaled_dot_product_attention


def count(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Lengths of queries and keys of the attention that is really computed."""
    lengths: list[tuple[int, int]] = []

    def counted(query, key, *args, **kwargs):
        lengths.append((query.shape[-2], key.shape[-2]))
        return ATTEND(query, key, *args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    return lengths


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_is_the_same_and_the_rest_does_not_run(
    family, differentiable, make_denoiser, monkeypatch
) -> None:
    case = make_denoiser(family)
    options = {"blocks": (0, 1), "differentiable": differentiable}
    with torch.set_grad_enabled(differentiable):
        with SelfAttentionReader(case.layout, **options) as whole:
            case.run()
        ran: list[str] = []
        for name, module in case.model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        lengths = count(monkeypatch)
        after = []
        with SelfAttentionReader(case.layout, stop_early=True, **options) as early:
            case.run()
            after.append("reached")
    assert after == []
    assert early.calls == 2
    assert whole.calls == len(case.calls)
    # The second self-attention is seen and not computed.
    assert sum(queries == keys for queries, keys in lengths) <= 2
    assert not {"proj_out", "conv_out", "norm_out"} & set(ran)
    assert torch.equal(early.attention(), whole.attention())


def test_it_reads_afresh_after_an_early_stop(make_denoiser) -> None:
    case = make_denoiser("sd3")
    reader = SelfAttentionReader(case.layout, blocks=(1,), stop_early=True)
    maps = []
    with torch.no_grad():
        for _ in range(2):
            with reader:
                case.run()
            maps.append(reader.attention())
        plain = case.run()
        with SelfAttentionReader(case.layout) as whole:
            watched = case.run()
    assert torch.equal(maps[0], maps[1])
    assert whole.calls == 3
    assert torch.equal(plain, watched)
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_blocks_that_do_not_exist_are_still_an_error(make_denoiser) -> None:
    case = make_denoiser("flux")
    with torch.no_grad(), SelfAttentionReader(case.layout, blocks=(0, 9), stop_early=True) as r:
        case.run()
    with pytest.raises(RuntimeError, match=r"blocks \[9\] do not exist"):
        r.attention()


def test_without_blocks_nothing_stops(make_denoiser) -> None:
    case = make_denoiser("pixart")
    with torch.no_grad(), SelfAttentionReader(case.layout, stop_early=True) as reader:
        output = case.run()
    assert output.shape[0] == 2
    assert reader.calls == 2


def test_errors_of_the_model_are_not_swallowed() -> None:
    query = torch.randn(1, 2, 6, 4)

    def run() -> None:
        with SelfAttentionReader(AttentionLayout(((2, 3),)), blocks=(1,), stop_early=True):
            ATTEND(query, query, query)
            raise KeyError("of the model")

    with pytest.raises(KeyError, match="of the model"):
        run()


def test_outer_contexts_are_left_in_order(make_denoiser) -> None:
    case = make_denoiser("flux")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with (
            native_attention(case.model),
            SelfAttentionReader(case.layout, blocks=(0,), stop_early=True) as reader,
        ):
            case.run()
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        attention = reader.attention()
    assert not torch.is_autocast_enabled("cpu")
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 12), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "pixart", "sd3", "flux"])
def test_gradients_with_checkpointing_and_an_early_stop(family, make_denoiser) -> None:
    case = make_denoiser(family)
    case.model.train()
    weight = next(p for n, p in case.model.named_parameters() if n.endswith("to_q.weight"))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            case.model.enable_gradient_checkpointing()
        case.model.zero_grad()
        options = {"blocks": (0, 1), "differentiable": True, "stop_early": True}
        with SelfAttentionReader(case.layout, **options) as reader:
            case.run()
        # What is computed afterwards must not belong to the region that was left.
        reader.attention().square().sum().backward()
        gradients.append(weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_offloaded_models_stop_early_and_run_again(make_denoiser) -> None:
    from accelerate import cpu_offload_with_hook

    case = make_denoiser("sd3")
    with torch.no_grad():
        expected = case.run()
        _, hook = cpu_offload_with_hook(case.model, torch.device("cpu"))
        with SelfAttentionReader(case.layout, blocks=(0,), stop_early=True) as reader:
            case.run()
        hook.offload()
        assert torch.equal(case.run(), expected)
    assert reader.attention().shape == (2, 12, 12)


def test_gradcheck_of_a_denoiser(make_denoiser) -> None:
    # From the input of a whole denoiser to its map, in float64.
    case = make_denoiser("pixart")
    case.model.double()
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    text = torch.randn(1, 5, 10, generator=torch.Generator().manual_seed(1)).double()
    projection = torch.linspace(-1, 1, 256, dtype=torch.float64).cos().view(1, 16, 16)
    direction = torch.randn(4, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2)).double()

    def read(steps: torch.Tensor) -> torch.Tensor:
        noised = start + (steps.view(-1, 1, 1, 1, 1) * direction).sum(0)
        with SelfAttentionReader(case.layout, differentiable=True) as reader:
            case.model(
                noised,
                encoder_hidden_states=text,
                timestep=torch.tensor([0]),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            )
        attention = reader.attention()
        assert attention.dtype == torch.float64
        return (attention * projection).sum(-1)

    steps = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(read, (steps,), rtol=1e-4, atol=1e-7)


def test_a_module_may_reuse_the_tensors_it_attends_with() -> None:
    # Queries are kept during the pass: the map is that of the call all the same.
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ATTEND(x, x, x).sum(1) * 2

    x = torch.randn(1, 2, 6, 4, requires_grad=True)
    with SelfAttentionReader(AttentionLayout(((2, 3),)), differentiable=True) as reader:
        Model()(x)
    expected = (x @ x.transpose(-1, -2) / 2).softmax(-1).mean(1)
    torch.testing.assert_close(reader.attention(), expected, rtol=0, atol=1e-6)
