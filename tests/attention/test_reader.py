"""The reader against explicit softmax on diffusers' own classes."""

from __future__ import annotations

import threading

import pytest
import torch
from plain.attention import (
    average_over_grids,
    image_attention,
    mean_softmax_attention,
)
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader, native_attention

FAMILIES = ("sd15", "sdxl", "pixart", "sd3", "flux")
attend = functional.scaled_dot_product_attention


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Capture:
    """Keeps query and key of every attention call that runs under it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        monkeypatch.setattr(functional, "scaled_dot_product_attention", self)

    def __call__(self, query: Tensor, key: Tensor, *args: object, **kwargs: object) -> Tensor:
        self.calls.append((query.detach().clone(), key.detach().clone()))
        return attend(query, key, *args, **kwargs)


def explicit_attention(case, calls: list[tuple[Tensor, Tensor]], sample: int) -> Tensor:
    """The paper's average over the self-attention calls of one sample, in float64."""
    layout, maps = case.layout, []
    grids = iter(case.calls)
    for query, key in calls:
        if query.shape[2] != key.shape[2]:
            continue
        grid = next(grids)
        size = grid[0] * grid[1]
        joint = query.shape[2] != size
        start = layout.text_tokens if joint and layout.text_first else 0
        assert query.shape[2] - size in (0, layout.text_tokens)
        maps.append(image_attention(query, key, slice(start, start + size))[sample])
    assert next(grids, None) is None
    return average_over_grids(maps, case.calls, layout.largest)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_equals_explicit_softmax_and_leaves_outputs_alone(
    family, make_denoiser, monkeypatch
) -> None:
    case = make_denoiser(family)
    plain = case.run()
    capture = Capture(monkeypatch)
    with SelfAttentionReader(case.layout) as reader:
        watched = case.run()
    assert torch.equal(plain, watched)
    assert reader.calls == len(case.calls)
    attention = reader.attention()
    size = case.layout.tokens
    assert attention.shape == (2, size, size)
    assert attention.dtype == torch.float32
    for sample in range(2):
        expected = explicit_attention(case, capture.calls, sample)
        assert expected.max() > 2 / size  # far from uniform, or the comparison would be easy
        torch.testing.assert_close(attention[sample].double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, size), rtol=0, atol=1e-5)


@torch.no_grad()
def test_odd_grids_are_resampled_and_renormalised(make_denoiser, monkeypatch) -> None:
    case = make_denoiser("sd15", grid=(6, 5))
    assert case.layout.grids == ((6, 5), (3, 3))
    capture = Capture(monkeypatch)
    with SelfAttentionReader(case.layout) as reader:
        case.run()
    expected = explicit_attention(case, capture.calls, 1)
    torch.testing.assert_close(reader.attention()[1].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "pixart"])
@pytest.mark.parametrize("which", ["largest", "smallest"])
@torch.no_grad()
def test_cross_attention_of_a_grids_length_is_not_taken(family, which, make_denoiser) -> None:
    grid = make_denoiser(family).layout.grids[0 if which == "largest" else -1]
    case = make_denoiser(family, text=grid[0] * grid[1])
    with SelfAttentionReader(case.layout) as reader:
        case.run()
    assert reader.calls == len(case.calls)

    queries: list[Tensor] = []
    for name, module in case.model.named_modules():
        if name.endswith("attn1.to_q"):
            module.register_forward_hook(lambda *call: queries.append(call[2]))
    with SelfAttentionReader(case.layout) as again:
        case.run()
    assert len(queries) == again.calls
    torch.testing.assert_close(again.attention(), reader.attention(), rtol=0, atol=0)


@torch.no_grad()
def test_blocks_are_selected_by_index(make_denoiser) -> None:
    case = make_denoiser("sd3")
    parts = []
    for blocks in ((0,), (1,), (2,), (0, 2)):
        with SelfAttentionReader(case.layout, blocks=blocks) as reader:
            case.run()
        parts.append(reader.attention())
    torch.testing.assert_close(parts[3], (parts[0] + parts[2]) / 2, rtol=0, atol=1e-6)
    assert (parts[0] - parts[1]).abs().max() > 1e-3
    with SelfAttentionReader(case.layout, blocks=(1, 3)) as reader:
        case.run()
    with pytest.raises(RuntimeError, match=r"blocks \[3\] do not exist.*0 to 2"):
        reader.attention()


@torch.no_grad()
def test_small_grid_alone_comes_at_the_size_of_the_largest(make_denoiser) -> None:
    case = make_denoiser("sd15")
    with SelfAttentionReader(case.layout, blocks=(1,)) as reader:
        case.run()
    attention = reader.attention()
    assert attention.shape == (2, 64, 64)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 64), rtol=0, atol=1e-5)
    assert torch.equal(attention[:, 0], attention[:, 9])


@pytest.mark.parametrize("family", ["sd15", "flux"])
@torch.no_grad()
def test_lora_stays_active(family, make_denoiser) -> None:
    from peft import LoraConfig

    case = make_denoiser(family)
    with SelfAttentionReader(case.layout) as bare:
        without = case.run()
    config = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    case.model.add_adapter(config)
    adapted = case.run()
    with SelfAttentionReader(case.layout) as reader:
        watched = case.run()
    assert torch.equal(adapted, watched)
    assert not torch.equal(without, watched)
    assert (reader.attention() - bare.attention()).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_models_accumulate_in_float32(dtype, make_denoiser, monkeypatch) -> None:
    case = make_denoiser("flux")
    case.model.to(dtype)
    capture = Capture(monkeypatch)
    plain = case.run()
    capture.calls.clear()
    with SelfAttentionReader(case.layout) as reader:
        watched = case.run()
    assert torch.equal(plain, watched)
    assert capture.calls[0][0].dtype == dtype
    attention = reader.attention()
    assert attention.dtype == torch.float32
    # The captured query and key are narrow; from there on nothing is rounded to their type.
    expected = explicit_attention(case, capture.calls, 0)
    torch.testing.assert_close(attention[0].double(), expected, rtol=0, atol=1e-6)


def test_runs_in_inference_mode_and_under_autocast() -> None:
    query, key = random(1, 2, 6, 4), random(1, 2, 6, 4, seed=1)
    layout = AttentionLayout(((2, 3),))
    expected = mean_softmax_attention(query, key)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        SelfAttentionReader(layout) as reader,
    ):
        functional.scaled_dot_product_attention(query.clone(), key.clone(), key.clone())
    attention = reader.attention()
    assert not attention.is_inference()
    torch.testing.assert_close(attention, expected, rtol=0, atol=1e-6)


def read(layout: AttentionLayout, *call: Tensor, **options: object) -> Tensor:
    with SelfAttentionReader(layout) as reader:
        attend(*call, **options)
    return reader.attention()


def test_scale_masks_and_shared_key_heads() -> None:
    layout = AttentionLayout(((2, 3),))
    query, key = random(2, 4, 6, 8), random(2, 4, 6, 8, seed=1)
    scores = query @ key.transpose(-1, -2)

    scaled = read(layout, query, key, key, scale=0.7)
    torch.testing.assert_close(scaled, (scores * 0.7).softmax(-1).mean(1), rtol=0, atol=1e-6)

    keep = torch.ones(6, dtype=torch.bool)
    keep[2] = False
    masked = read(layout, query, key, key, attn_mask=keep.expand(6, 6))
    assert torch.equal(masked[..., 2], torch.zeros(2, 6))
    expected = (scores * 8**-0.5).masked_fill(~keep, -torch.inf).softmax(-1).mean(1)
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-6)

    bias = random(2, 1, 6, 6, seed=2)
    biased = read(layout, query, key, key, attn_mask=bias)
    expected = (scores * 8**-0.5 + bias).softmax(-1).mean(1)
    torch.testing.assert_close(biased, expected, rtol=0, atol=1e-6)

    shared = read(layout, query, key[:, :2], key[:, :2], enable_gqa=True)
    expected = mean_softmax_attention(query, key[:, [0, 0, 1, 1]])
    torch.testing.assert_close(shared, expected, rtol=0, atol=1e-6)


def test_joint_masks_are_cut_to_the_image() -> None:
    layout = AttentionLayout(((2, 2),), text_tokens=3, text_first=True)
    query, key = random(1, 2, 7, 4), random(1, 2, 7, 4, seed=1)
    bias = random(7, 7, seed=2)
    part = mean_softmax_attention(query[:, :, 3:], key[:, :, 3:])
    torch.testing.assert_close(read(layout, query, key, key), part, rtol=0, atol=1e-6)
    scores = query[:, :, 3:] @ key[:, :, 3:].transpose(-1, -2) / 2 + bias[3:, 3:]
    biased = read(layout, query, key, key, attn_mask=bias)
    torch.testing.assert_close(biased, scores.softmax(-1).mean(1), rtol=0, atol=1e-6)


def test_calls_that_hold_no_map_are_refused() -> None:
    layout = AttentionLayout(((2, 3),))
    tensor = random(1, 2, 6, 4)
    with pytest.raises(ValueError, match="causal"):
        read(layout, tensor, tensor, tensor, is_causal=True)
    with pytest.raises(ValueError, match=r"\(B, heads, N, d\)"):
        read(layout, tensor[0], tensor[0], tensor[0])
    with SelfAttentionReader(layout):
        attend(tensor, tensor, tensor)
        batch = tensor.expand(2, -1, -1, -1)
        with pytest.raises(ValueError, match="one forward pass"):
            attend(batch, batch, batch)


def test_no_self_attention_is_said_with_the_reason() -> None:
    with SelfAttentionReader(AttentionLayout(((2, 3),))) as reader:
        pass
    with pytest.raises(RuntimeError, match=r"calls seen .*: none.*native_attention"):
        reader.attention()
    tensor = random(1, 2, 5, 4)
    with reader:
        attend(tensor, tensor, tensor)
    with pytest.raises(RuntimeError, match=r"5x5 \(1 times\)"):
        reader.attention()


def test_is_left_clean_after_an_error_and_reads_afresh() -> None:
    layout = AttentionLayout(((2, 3),))
    query = random(1, 2, 6, 4)
    reader = SelfAttentionReader(layout)

    class Fails(nn.Module):
        is_cross_attention = True

        def forward(self) -> None:
            raise KeyError("inside the model")

    def run() -> None:
        with reader:
            attend(query, query, query)
            Fails()()

    with pytest.raises(KeyError):
        run()
    with reader:
        attend(query, query, query)
    attend(random(1, 2, 6, 4, seed=3), query, query)  # outside: not read
    assert reader.calls == 1
    expected = mean_softmax_attention(query, query)
    torch.testing.assert_close(reader.attention(), expected, rtol=0, atol=1e-6)
    assert reader.attention() is reader.attention()


def test_other_threads_are_not_read() -> None:
    layout = AttentionLayout(((2, 3),))
    query = random(1, 2, 6, 4)

    class Crossed(nn.Module):
        is_cross_attention = True

        def forward(self) -> None:
            attend(query, query, query)
            entered.set()
            assert left.wait(60)

    entered, left = threading.Event(), threading.Event()
    thread = threading.Thread(target=Crossed())
    with SelfAttentionReader(layout) as reader:
        thread.start()
        assert entered.wait(60)
        attend(query, query, query)
    left.set()
    thread.join()
    assert reader.calls == 1


def test_layouts_are_checked() -> None:
    with pytest.raises(ValueError, match="largest grid comes first"):
        AttentionLayout(((4, 4), (8, 8)))
    with pytest.raises(ValueError, match="equal length"):
        AttentionLayout(((4, 4), (2, 8)))
    with pytest.raises(ValueError, match="equal length"):
        AttentionLayout(((4, 4), (2, 4)), text_tokens=8)
    with pytest.raises(ValueError, match="at least 1x1"):
        AttentionLayout(())
    layout = AttentionLayout(((4, 3), (2, 2), (2, 2)), text_tokens=5, text_first=True)
    assert layout.locate(12) == ((4, 3), 0)
    assert layout.locate(17) == ((4, 3), 5)
    assert layout.locate(9) == ((2, 2), 5)
    assert layout.locate(5) is None


def test_bad_options_are_refused() -> None:
    layout = AttentionLayout(((4, 4),))
    with pytest.raises(ValueError, match="counted from 0"):
        SelfAttentionReader(layout, blocks=(-1,))
    with pytest.raises(ValueError, match="positive"):
        SelfAttentionReader(layout, scratch_mb=0)


@torch.no_grad()
def test_another_backend_is_switched_to_native(make_denoiser, monkeypatch) -> None:
    from diffusers.models import attention_dispatch as dispatch

    case = make_denoiser("flux")
    expected = case.run()
    flash = dispatch.AttentionBackendName.FLASH

    def hidden(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.einsum("bihd,bjhd->bhij", query, key) * query.shape[-1] ** -0.5
        return torch.einsum("bhij,bjhd->bihd", weights.softmax(-1), value)

    registry = dispatch._AttentionBackendRegistry
    monkeypatch.setitem(registry._backends, flash, hidden)
    monkeypatch.setitem(registry._supported_arg_names, flash, {"query", "key", "value"})
    monkeypatch.setattr(registry, "_active_backend", flash)
    processors = [module.processor for module in case.model.modules() if hasattr(module, "to_q")]
    monkeypatch.setattr(processors[0], "_attention_backend", flash, raising=False)
    with SelfAttentionReader(case.layout) as blind:
        case.run()
    with pytest.raises(RuntimeError, match="no self-attention"):
        blind.attention()
    with native_attention(case.model), SelfAttentionReader(case.layout) as reader:
        assert torch.equal(case.run(), expected)
    assert reader.calls == 3
    assert registry._active_backend == flash
    assert processors[0]._attention_backend == flash


def test_a_compiled_model_is_read_eagerly(make_denoiser) -> None:
    case = make_denoiser("pixart")
    with torch.no_grad():
        expected = case.run()
        case.model.compile(backend="eager")
        with native_attention(case.model), SelfAttentionReader(case.layout) as reader:
            assert torch.equal(case.run(), expected)
    assert reader.calls == 2
