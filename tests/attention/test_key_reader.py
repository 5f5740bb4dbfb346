"""Keys of a forward pass, against the projections of real vision transformers and denoisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, KeyReader, SelfAttentionReader

SIZE = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 12,
    "patch_size": 4,
}
GRID = 2, 3  # of images of 8 x 12


def dino() -> tuple[nn.Module, str, int, dict[str, Any]]:
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(**SIZE), add_pooling_layer=False)
    return model, "k_proj", 1, {"interpolate_pos_encoding": True}


def dinov2(registers: int = 0) -> tuple[nn.Module, str, int, dict[str, Any]]:
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    if registers:
        config = Dinov2WithRegistersConfig(**SIZE, num_register_tokens=registers)
        return Dinov2WithRegistersModel(config), "k_proj", 1 + registers, {}
    return Dinov2Model(Dinov2Config(**SIZE)), "k_proj", 1, {}


def timm_vit() -> tuple[nn.Module, str, int, dict[str, Any]]:
    timm = pytest.importorskip("timm")
    options = {"img_size": (8, 12), "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
    return timm.models.VisionTransformer(**options), "qkv", 1, {}


VITS: dict[str, Callable[[], tuple[nn.Module, str, int, dict[str, Any]]]] = {
    "dino": dino,
    "dinov2": dinov2,
    "dinov2-registers": lambda: dinov2(4),
    "timm": timm_vit,
}


def projected(model: nn.Module, suffix: str) -> list[Tensor]:
    """What each layer that makes keys will have said, in the order they run."""
    said: list[Tensor] = []
    layers = [m for n, m in model.named_modules() if n.rpartition(".")[2] == suffix]
    assert len(layers) == 3
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: said.append(output))
    return said


def tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [x for x in output.values()]


@pytest.mark.parametrize("name", VITS)
def test_keys_of_a_vit_are_its_projections_and_its_outputs_stay(name: str) -> None:
    torch.manual_seed(0)
    model, suffix, prefix, options = VITS[name]()
    model.eval()
    pixels = torch.randn(2, 3, 8, 12)
    layout = AttentionLayout((GRID,), text_tokens=prefix, text_first=True)
    with torch.no_grad():
        expected = tensors(model(pixels, **options))
        with SelfAttentionReader(layout) as alone:
            model(pixels, **options)
        said = projected(model, suffix)
        passes = []
        for block in (-1, 2, 1):
            with SelfAttentionReader(layout) as maps, KeyReader(layout, block=block) as keys:
                passes.append(tensors(model(pixels, **options)))
            whole = said[-3:][block]
            own = whole[..., whole.shape[-1] // 3 :][..., :12] if suffix == "qkv" else whole
            assert torch.equal(keys.keys(), own[:, prefix:])
            assert keys.grid == GRID
            assert torch.equal(maps.attention(), alone.attention())
    assert len(said) == 9  # a pass each
    for outputs in passes:
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart", "sd3", "flux"])
def test_keys_of_a_denoiser_are_those_of_its_last_call(family: str, make_denoiser: Any) -> None:
    case = make_denoiser(family)
    called: list[Tensor] = []
    attend = functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if query.shape[-2] == key.shape[-2]:
            called.append(key)
        return attend(query, key, *args, **kwargs)

    with torch.no_grad():
        plain = case.run()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functional, "scaled_dot_product_attention", spy)
            with KeyReader(case.layout) as reader:
                watched = case.run()
    assert torch.equal(plain, watched)
    h, w = reader.grid
    assert reader.grid == case.calls[-1]
    text = called[-1].shape[2] - h * w
    start = text if case.layout.text_first else 0
    image = called[-1][:, :, start : start + h * w]
    assert reader.keys().shape == (2, h * w, image.shape[1] * image.shape[3])
    for head in range(image.shape[1]):
        own = reader.keys()[..., head * image.shape[3] : (head + 1) * image.shape[3]]
        assert torch.equal(own, image[:, head])


def test_a_block_ends_the_pass_and_one_that_is_not_there_is_an_error(make_denoiser: Any) -> None:
    case = make_denoiser("sd3")
    with torch.no_grad():
        with KeyReader(case.layout, block=1) as whole:
            case.run()
        with KeyReader(case.layout, block=1, stop_early=True) as early:
            case.run()
            raise AssertionError("the pass goes on")
        assert torch.equal(early.keys(), whole.keys())
        with KeyReader(case.layout, block=7) as absent:
            case.run()
    with pytest.raises(RuntimeError, match=r"blocks \[7\] do not exist"):
        absent.keys()
    with pytest.raises(ValueError, match="counted from 0"):
        KeyReader(case.layout, block=-2)
    with pytest.raises(RuntimeError, match="showed no self-attention"):
        KeyReader(case.layout).keys()
    with pytest.raises(TypeError, match="no maps"):
        whole.attention()


def test_tokens_of_another_order_become_row_major() -> None:
    layout = AttentionLayout(((2, 3),), text_tokens=3, start=2, order=(3, 0, 5, 1, 2, 4))
    x = torch.randn(1, 2, 9, 4)
    with KeyReader(layout) as reader:
        functional.scaled_dot_product_attention(x, x, x, is_causal=True)  # which keys do not mind
    expected = x[0, :, [2 + place for place in layout.order]].transpose(0, 1).flatten(1)
    assert torch.equal(reader.keys()[0], expected)


def test_keys_are_a_copy_of_what_the_module_may_write_over() -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            key = x.clone()
            out = functional.scaled_dot_product_attention(x, key, x)
            key.zero_()
            return out

    x = torch.randn(1, 6, 2, 4).transpose(1, 2)
    with KeyReader(AttentionLayout(((2, 3),))) as reader:
        Module()(x)
    assert torch.equal(reader.keys(), x.transpose(1, 2).flatten(2))
