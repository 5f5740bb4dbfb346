"""Groups of blocks that rest in main memory: results, adapters, and passes that are cut short."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup

from trace_d2.attention import SelfAttentionReader, native_attention

STEP = torch.tensor([300])


def _latent(backbone):
    channels, generator = backbone.vae.config.latent_channels, torch.Generator().manual_seed(0)
    return torch.randn(1, channels, 8, 8, generator=generator)


def _read(backbone, stop_early):
    layout = backbone.layout((8 * backbone.vae_reduction,) * 2)
    options = {"blocks": (0,), "stop_early": stop_early, "network": backbone.network}
    with (
        torch.no_grad(),
        native_attention(backbone),
        SelfAttentionReader(layout, **options) as reader,
    ):
        backbone(_latent(backbone), STEP)
    return reader.attention()


@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart", "sd3", "flux"])
def test_groups_give_the_same_results(family, build_tiny):
    plain, offloaded = build_tiny(family), build_tiny(family, OFFLOAD="group")
    with torch.no_grad():
        assert torch.equal(offloaded(_latent(plain), STEP), plain(_latent(plain), STEP))
    assert torch.equal(_read(offloaded, False), _read(plain, False))


@pytest.mark.parametrize("family", ["sd15", "sd3", "flux"])
def test_a_pass_that_stops_early_leaves_no_block_on_the_device(family, build_tiny, monkeypatch):
    plain, offloaded = build_tiny(family), build_tiny(family, OFFLOAD="group")
    on_device = set()
    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: on_device.add(id(group)))
    monkeypatch.setattr(ModuleGroup, "offload_", lambda group: on_device.discard(id(group)))
    assert torch.equal(_read(offloaded, True), _read(plain, True))
    assert not on_device
    with torch.no_grad():  # and the next one runs to its end
        expected = plain(_latent(plain), STEP)
        assert torch.equal(offloaded(_latent(plain), STEP), expected)
    assert not on_device


def test_one_block_at_a_time_is_on_the_device(build_tiny, monkeypatch):
    offloaded = build_tiny("sd3", OFFLOAD="group")
    blocks = {id(block) for block in offloaded.denoiser.transformer_blocks}
    on_device, most = set(), [0]

    def load(group):
        on_device.update(id(module) for module in group.modules)
        most[0] = max(most[0], len(on_device & blocks))

    def rest(group):
        on_device.difference_update(id(module) for module in group.modules)

    monkeypatch.setattr(ModuleGroup, "onload_", load)
    monkeypatch.setattr(ModuleGroup, "offload_", rest)
    with torch.no_grad():
        offloaded(_latent(offloaded), STEP)
    assert most == [1]


def test_the_former_key_still_works(build_tiny):
    backbone = build_tiny("sd15", CPU_OFFLOAD=True)
    assert hasattr(backbone.denoiser, "_hf_hook")
    grouped = build_tiny("sd15", CPU_OFFLOAD=True, OFFLOAD="group")
    assert not hasattr(grouped.denoiser, "_hf_hook")


def test_weights_whose_scales_would_stay_behind(build_tiny):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match=r'OFFLOAD group cannot move .* nf4: set it to "model"'):
        build_tiny("sd3", QUANTIZE="nf4", OFFLOAD="group")


def test_nf4_moves_as_a_whole(build_tiny):
    pytest.importorskip("bitsandbytes")
    plain = build_tiny("sd3", QUANTIZE="nf4")
    offloaded = build_tiny("sd3", QUANTIZE="nf4", OFFLOAD="model")
    with torch.no_grad():
        assert torch.equal(offloaded(_latent(plain), STEP), plain(_latent(plain), STEP))
