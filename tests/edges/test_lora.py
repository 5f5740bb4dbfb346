"""Adapters on the denoisers of every family."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trace_d2.edges.distillation import dice_loss, reconstruction_loss
from trace_d2.edges.lora import ADAPTER, LoraSettings, add_lora, float32_adapters, lora_layers
from trace_d2.edges.lora import merge_lora_adapters as merge
from trace_d2.edges.student import EdgeStudent

FAMILIES = ("sd15", "sdxl", "pixart", "sd3", "flux")
# What reads or writes the prompt's own stream.
PROMPT = (
    "add_q",
    "add_k",
    "add_v",
    "to_add_out",
    "ff_context",
    "context",
    "caption",
    "time",
    "text",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_each_kind(family, tiny_pipeline) -> None:
    pipeline, _ = tiny_pipeline(family)
    denoiser = pipeline.unet if family.startswith("sd1") or family == "sdxl" else None
    denoiser = denoiser or pipeline.transformer
    attention = lora_layers(denoiser, ["attention"])
    feed_forward = lora_layers(denoiser, ["feed_forward"])
    both = lora_layers(denoiser, ["attention", "feed_forward"])
    assert set(both) == set(attention) | set(feed_forward)
    assert not set(attention) & set(feed_forward)
    modules = dict(denoiser.named_modules())
    assert all(isinstance(modules[name], nn.Linear) for name in both)
    assert not [name for name in both if any(part in name for part in PROMPT)]
    ends = {name.rsplit(".", 1)[-1] for name in attention}
    assert {"to_q", "to_k", "to_v"} <= ends
    # As many queries as blocks have attention, and two layers a feed-forward net.
    queries = [name for name, module in modules.items() if name.endswith(".to_q")]
    assert sum(name.endswith(".to_q") for name in attention) == len(queries)
    nets = [name for name in modules if name.endswith(".ff") or name.endswith(".proj_mlp")]
    assert len(feed_forward) == 2 * len(nets)


def test_flux_by_name(tiny_pipeline) -> None:
    layers = lora_layers(tiny_pipeline("flux")[0].transformer, ["attention", "feed_forward"])
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    assert set(layers) == {
        *(f"{double}.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"{double}.ff.net.{name}" for name in ("0.proj", "2")),
        *(f"{single}.attn.{name}" for name in ("to_q", "to_k", "to_v")),
        *(f"{single}.{name}" for name in ("proj_mlp", "proj_out")),
    }


def test_kinds_are_checked() -> None:
    model = nn.ModuleDict({"attn": nn.ModuleDict({"to_q": nn.Linear(2, 2)})})
    assert lora_layers(model, ["attention"]) == ["attn.to_q"]
    with pytest.raises(ValueError, match=r"LORA\.LAYERS holds some of attention, feed"):
        LoraSettings(layers=())
    with pytest.raises(ValueError, match=r"LORA\.LAYERS must be one of attention, feed.*'mlp'"):
        LoraSettings(layers=("attention", "mlp"))
    with pytest.raises(ValueError, match="ModuleDict has no layers of the kind 'feed_forward'"):
        lora_layers(model, ["feed_forward"])


def test_rank_and_alpha_are_checked() -> None:
    with pytest.raises(ValueError, match=r"STUDENT\.LORA\.RANK must be 1 or more, not 0"):
        LoraSettings(rank=0)
    with pytest.raises(ValueError, match=r"STUDENT\.LORA\.ALPHA must be 0 or more, not -1"):
        LoraSettings(alpha=-1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_new_adapters_change_nothing(family, dtype, build_tiny) -> None:
    backbone = build_tiny(family, DTYPE=dtype, RESOLUTION=32)
    noised = torch.randn_like(backbone.encode(torch.zeros(1, 3, 32, 32)))
    before = backbone(noised, torch.tensor([0]))
    layers = lora_layers(backbone.denoiser, ["attention", "feed_forward"])
    add_lora(backbone.denoiser, LoraSettings(rank=2))
    assert torch.equal(backbone(noised, torch.tensor([0])), before)
    assert backbone.dtype == getattr(torch, dtype)
    for name, parameter in backbone.denoiser.named_parameters():
        adapter = ".lora_" in name
        assert parameter.requires_grad == adapter
        assert parameter.dtype == (torch.float32 if adapter else backbone.dtype)
    assert sum(".lora_A." in name for name, _ in backbone.denoiser.named_parameters()) == len(
        layers
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", [*FAMILIES, "trace-tiny"])
def test_every_adapter_learns_and_checkpointing_changes_nothing(
    family, dtype, make_student
) -> None:
    if family == "trace-tiny" and dtype == "bfloat16":
        pytest.skip("trace-tiny runs in float32")
    student: EdgeStudent = make_student(family, BACKBONE__DTYPE=dtype).train()
    side = student.backbone.resolution
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    pseudo = torch.randint(-1, 2, (2, side, side), generator=generator)
    noise = torch.randn(student.backbone.encode(pixels).shape, generator=generator)
    runs = []
    for checkpointing in (False, True):
        if checkpointing:
            student.backbone.denoiser.enable_gradient_checkpointing()
        student.zero_grad()
        output = student(pixels, noise)
        losses = (
            dice_loss(output.logits, pseudo),
            reconstruction_loss(output.latent, output.reconstruction),
        )
        sum(losses).backward()
        runs.append((torch.stack(losses), {n: p.grad for n, p in student.trainable().items()}))
    # Distributed training needs a gradient of every one. Those of queries and keys of the prompt's
    # cross-attention are lost in rounding where all of its tokens look alike.
    gradients = runs[0][1].items()
    assert not [name for name, g in gradients if g is None or not g.isfinite().all()]
    lost = [name for name, g in gradients if not g.any()]
    assert not [name for name in lost if ".attn2.to_q." not in name and ".attn2.to_k." not in name]
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=0, atol=0)
    for name, gradient in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], gradient, rtol=1e-5, atol=1e-8, msg=name)
    # Dice alone, through the attention map, reaches the queries of the first block.
    student.zero_grad()
    dice_loss(student(pixels, noise).logits, pseudo).backward()
    first = next(n for n in runs[0][1] if "to_q.lora_B" in n)
    assert student.trainable()[first].grad.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_merging_changes_edges_by_rounding(family, dtype, make_student) -> None:
    student: EdgeStudent = make_student(family, BACKBONE__DTYPE=dtype).eval()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(student.backbone.encode(pixels).shape, generator=generator)
    # Edges of every strength: of 0.27 to 0.73 for most pixels.
    logits = student(pixels, noise).logits
    student.decoder.exit.weight /= logits.std()
    student.decoder.exit.bias.copy_((student.decoder.exit.bias - logits.mean()) / logits.std())
    apart = student(pixels, noise)
    assert 0.15 < float(apart.logits.sigmoid().std()) < 0.25
    merge(student.backbone.denoiser)
    assert not [n for n, _ in student.backbone.named_modules() if "lora" in n]
    merged = student(pixels, noise)
    change = (merged.logits.sigmoid() - apart.logits.sigmoid()).abs().max()
    # Rounding the sum to bfloat16 costs as much as the weights' own rounding did.
    assert float(change) < (1e-3 if dtype == "float32" else 5e-3)
    assert {p.dtype for p in student.backbone.denoiser.parameters()} == {getattr(torch, dtype)}


def test_only_adapters_become_float32() -> None:
    model = nn.ModuleDict({"base": nn.Linear(2, 2), "x.lora_A".replace(".", "_"): nn.Linear(2, 2)})
    model.bfloat16()
    float32_adapters(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}  # "lora_" is no ".lora_"
    assert ADAPTER == "trace"
