"""The published configurations at their real size, without memory: on PyTorch's meta device."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trace_d2.attention import SelfAttentionReader, native_attention
from trace_d2.backbones import REGISTERED_MODELS
from trace_d2.backbones.diffusion import Noising
from trace_d2.backbones.registry import FAMILY_FILES
from trace_d2.backbones.settings import BackboneSettings


@dataclass(frozen=True)
class Published:
    """What is known of a model.

    Attributes:
        grids: of its image tokens at its native resolution.
        text: tokens of its prompt.
        joint: whether they share the image's sequence.
        latent: channels of it.
        calls: of self-attention in a pass.
        billions: of parameters.
        teraflops: of a pass, multiplications and additions.
    """

    grids: tuple[int, ...]
    text: int
    joint: bool
    latent: int
    calls: int
    billions: float
    teraflops: float


PUBLISHED = {
    "sd15": Published((64, 32, 16, 8), 77, False, 4, 16, 0.860, 0.80),
    "sdxl": Published((64, 32), 77, False, 4, 70, 2.567, 6.76),
    "pixart-alpha": Published((64,), 120, False, 4, 28, 0.611, 6.51),
    "sd35-medium": Published((64,), 333, True, 16, 37, 2.24, 11.25),
    "sd35-large": Published((64,), 333, True, 16, 38, 8.06, 31.12),
    "flux1-dev": Published((64,), 512, True, 16, 57, 11.90, 74.38),
}


@pytest.fixture(scope="module")
def published(load_tool):
    """``published(name)``: the backbone on the meta device, in bfloat16."""
    make = load_tool("random_backbone").random_backbone
    meta = torch.device("meta")
    return lambda name: make(name, BackboneSettings(name=name), torch.bfloat16, meta)


def test_all_diffusion_models_that_have_a_hub_id_are_here(load_tool):
    hub = {
        name
        for name, model in REGISTERED_MODELS.items()
        if model.family in FAMILY_FILES and name != "trace-tiny"
    }
    assert set(PUBLISHED) == set(load_tool("architectures").ARCHITECTURES) == hub


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name, published):
    backbone, known = published(name), PUBLISHED[name]
    side = REGISTERED_MODELS[name].native_resolution
    assert backbone.resolution == backbone.configured_resolution() == side
    layout = backbone.layout((side, side))
    assert layout.grids == tuple((n, n) for n in known.grids)
    assert layout.text_tokens == (known.text if known.joint else 0)
    assert backbone.null_prompt_tensor("prompt_embeds", 1).shape[1] == known.text
    weights = sum(parameter.numel() for parameter in backbone.denoiser.parameters())
    assert weights / 1e9 == pytest.approx(known.billions, abs=0.005)

    shape = (1, known.latent, side // 8, side // 8)
    prepared = Noising(*torch.empty(2, *shape, device="meta"))
    reader = SelfAttentionReader(layout, network=backbone.network)
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), native_attention(backbone), flops, reader:
        output = backbone.run(prepared, [300])
    assert output.shape == shape
    assert output.dtype == torch.bfloat16
    assert reader.calls == known.calls
    assert reader.attention().shape == (1, layout.tokens, layout.tokens)
    assert flops.get_total_flops() / 1e12 == pytest.approx(known.teraflops, rel=0.01)


@pytest.mark.parametrize(("name", "gigabytes"), [("sd35-large", 16.1), ("flux1-dev", 23.8)])
def test_memory_of_the_weights(name, gigabytes, published):
    weights = published(name).denoiser.parameters()
    assert sum(p.nbytes for p in weights) / 1e9 == pytest.approx(gigabytes, abs=0.1)
