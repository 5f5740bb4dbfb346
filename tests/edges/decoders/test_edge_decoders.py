"""Every decoder: shapes, sizes, that it learns, and that it can be built again."""

from __future__ import annotations

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from trace_d2.config import get_trace_cfg
from trace_d2.edges.decoders import (
    EDGE_DECODERS,
    EdgeDecoder,
    build_decoder,
    decoder_settings,
    register_decoder,
)
from trace_d2.edges.decoders.base import at_size_of, keys_as_channels
from trace_d2.edges.distillation import dice_loss

SMALL = {
    "cnn": {},
    "relative": {"window": 3, "channels": 8, "layers": 1, "upsample": 2},
    "unet": {"channels": 8},
    "mask2former": {"channels": 8, "queries": 20, "layers": 3, "heads": 2},
}


def attention_of(batch: int, grid: tuple[int, int], seed: int = 0) -> Tensor:
    tokens = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, tokens, tokens, generator=generator)).softmax(-1)


def build(name: str, grid: tuple[int, int]) -> EdgeDecoder:
    torch.manual_seed(0)
    return build_decoder(name, grid[0] * grid[1], SMALL[name])


def test_all_decoders_are_looked_at() -> None:
    assert set(SMALL) == set(EDGE_DECODERS)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("grid", [(8, 8), (3, 5), (1, 4), (1, 1)])
def test_logits_have_the_images_size(name, grid) -> None:
    decoder = build(name, grid)
    pixels = torch.rand(2, 3, 20, 31) * 2 - 1
    logits = decoder(attention_of(2, grid), grid, pixels)
    assert logits.shape == (2, 20, 31)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    # One image's edges do not depend on the others in its batch.
    alone = decoder(attention_of(2, grid)[1:], grid, pixels[1:])
    torch.testing.assert_close(logits[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_it_learns_a_border(name) -> None:
    # Tokens left and right of a place attend to their own side: the edge lies between.
    grid, borders = (8, 8), (3, 5)
    columns = torch.arange(64) % 8
    maps, targets = [], []
    for border in borders:
        side = columns >= border
        own = (side[:, None] == side).float() * 0.95 + 0.05
        maps.append(own / own.sum(-1, keepdim=True))
        target = torch.zeros(16, 16, dtype=torch.int8)
        target[:, 2 * border - 1 : 2 * border + 1] = 1
        targets.append(target)
    attention, target = torch.stack(maps), torch.stack(targets)
    pixels = torch.zeros(2, 3, 16, 16)
    decoder = build(name, grid)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = dice_loss(decoder(attention, grid, pixels), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.5
    assert losses[-1] < 0.4 * losses[0], losses[::5]


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_has_a_gradient(name) -> None:
    grid = (16, 16)  # the coarsest of four levels still has more than one token
    decoder = build(name, grid)
    attention = attention_of(2, grid).requires_grad_()
    target = torch.randint(-1, 2, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    dice_loss(decoder(attention, grid, torch.zeros(2, 3, 32, 32)), target).backward()
    without = [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert attention.grad.any()


def test_many_queries_do_not_saturate_at_first() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("mask2former", 16, {"channels": 16, "queries": 300, "layers": 2})
    with torch.no_grad():
        edges = decoder(attention_of(1, (4, 4)), (4, 4), torch.zeros(1, 3, 8, 8)).sigmoid()
    assert edges.min() > 0.1
    assert edges.max() < 0.9


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_autocast_changes_little(name) -> None:
    decoder = build(name, (6, 6))
    attention, pixels = attention_of(1, (6, 6)), torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        exact = decoder(attention, (6, 6), pixels).sigmoid()
        with torch.autocast("cpu", torch.bfloat16):
            logits = decoder(attention, (6, 6), pixels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.sigmoid(), exact, rtol=0, atol=0.02)


def test_cnn_by_hand() -> None:
    # Grid 1 x 2, kernel 1: logit of query q is bias + sum over keys of weight[k] N SA[q, k].
    decoder = build_decoder("cnn", 2, {"kernel": 1})
    decoder.convolution.weight.data = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1)
    decoder.convolution.bias.data = torch.tensor([0.5])
    attention = torch.tensor([[[0.75, 0.25], [0.1, 0.9]]])
    logits = decoder(attention, (1, 2), torch.zeros(1, 3, 1, 2))
    # 0.5 + 2 (2 x 0.75 - 3 x 0.25), and 0.5 + 2 (2 x 0.1 - 3 x 0.9)
    torch.testing.assert_close(logits, torch.tensor([[[2.0, -4.5]]]))
    sizes = sum(p.numel() for p in build_decoder("cnn", 4096, {}).parameters())
    assert sizes == 4096 * 9 + 1  # 0.1 MB in float32 is 26,000 weights; this is 37,000


def test_keys_as_channels_by_hand() -> None:
    attention = torch.arange(36.0).view(1, 6, 6)
    features = keys_as_channels(attention, (2, 3))
    assert features.shape == (1, 6, 2, 3)
    for query in range(6):
        for key in range(6):
            assert features[0, key, query // 3, query % 3] == 6 * attention[0, query, key]


def test_upsampling_by_hand() -> None:
    # Cell centres at 0.5 and 1.5 of 2: four pixels lie at 0.25, 0.75, 1.25, 1.75.
    logits = torch.tensor([[[[0.0, 4.0]]]])
    fine = at_size_of(torch.zeros(1, 3, 1, 4), logits.double())
    assert fine.dtype == torch.float32
    assert fine.tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


@pytest.mark.parametrize("name", ["cnn", "unet", "mask2former"])
def test_decoders_of_one_grid_say_so(name) -> None:
    assert EDGE_DECODERS[name].of_one_grid
    with pytest.raises(RuntimeError):  # a student says why before it comes to this
        build(name, (4, 4))(attention_of(1, (5, 5)), (5, 5), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", SMALL)
def test_config_keys_are_the_arguments(name) -> None:
    node = get_trace_cfg().MODEL.TRACE.STUDENT.DECODER
    node.NAME = name
    settings = decoder_settings(node)
    assert set(settings) == {key.lower() for key in node[name.upper()]}
    # The defaults of the config are those of the code.
    default = build_decoder(name, 4, {})
    built = build_decoder(name, 4, settings)
    assert (built.name, built.settings) == (name, settings)
    assert {n: p.shape for n, p in default.named_parameters()} == {
        n: p.shape for n, p in built.named_parameters()
    }


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("cnn", {"kernel": 2}, "CNN.KERNEL is odd and positive, not 2"),
        ("cnn", {"kernel": -1}, "CNN.KERNEL"),
        ("unet", {"channels": 12}, "UNET.CHANNELS is a positive multiple of 8, not 12"),
        ("mask2former", {"channels": 24, "heads": 5}, "CHANNELS a multiple of 8 and of HEADS"),
        ("mask2former", {"queries": 0}, "MASK2FORMER: all keys are positive"),
        ("relative", {"window": 4}, "WINDOW is odd"),
        ("relative", {"upsample": 0}, "CHANNELS and UPSAMPLE"),
        ("relative", {"layers": -1}, "LAYERS 0 or more"),
    ],
)
def test_bad_settings_name_their_key(name, settings, key) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.STUDENT\.DECODER") as caught:
        build_decoder(name, 4, settings)
    assert key in str(caught.value)


def test_unknown_and_doubled_names() -> None:
    with pytest.raises(ValueError, match=r"STUDENT\.DECODER\.NAME is 'vit'; choose one of cnn"):
        decoder_settings(CfgNode({"NAME": "vit"}))
    with pytest.raises(ValueError, match="'vit'; choose one of cnn, mask2former, relative, unet"):
        build_decoder("vit", 4, {})
    with pytest.raises(ValueError, match="'cnn' is registered already"):
        register_decoder("cnn")(EDGE_DECODERS["unet"])
