"""Rows of tools/benchmarks/benchmark.py: time and peak memory of one distillation step.

The step is what training the student needs: a forward pass of the denoiser, a loss on its
accumulated attention map, and the backward pass to the low-rank adapters. Ours makes the softmax
again in the backward pass; the plain way lets autograd keep the softmax of every head and block.
"""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from architectures import SD35_LARGE
from diffusers import SD3Transformer2DModel
from measuring import PeakMemory, available_memory, in_process, timed
from peft import LoraConfig
from plain.attention import mean_softmax_attention
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.attention.mean_softmax import accumulation_dtype

WAYS = ("ours", "plain")
_TEXT_TOKENS = 333  # of the null prompt of Stable Diffusion 3
_PATCH = 2
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class StepSize:
    """A denoiser of Stable Diffusion 3.5 Large's width, with few blocks of attention."""

    side: int = 64  # of the token grid
    heads: int = 38  # of 64 channels each
    blocks: int = 2
    rank: int = 64  # of the adapters
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        return self.side**2

    @property
    def plain_bytes(self) -> int:
        """At least what the plain way takes: a softmax a block, and two blocks of scores."""
        element = torch.finfo(self.dtype).bits // 8
        return (self.blocks + 2) * self.heads * self.tokens**2 * element


class PlainReader(TorchFunctionMode):
    """Attention of image tokens, which come first, as one would write it down."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.maps: list[Tensor] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key = args[:2] or (kwargs["query"], kwargs["key"])
            image = slice(0, self.tokens)
            self.maps.append(mean_softmax_attention(query[:, :, image], key[:, :, image]))
        return func(*args, **kwargs)

    def attention(self) -> Tensor:
        """The mean over the calls, (B, N, N)."""
        total = sum(m.to(accumulation_dtype(m.dtype)) for m in self.maps)
        return torch.as_tensor(total / len(self.maps))


class DistillationStep:
    """The adapted denoiser with inputs; calling it gives the gradients of its adapters."""

    def __init__(self, size: StepSize) -> None:
        torch.manual_seed(0)
        self.size = size
        self.denoiser: Any = SD3Transformer2DModel(
            **SD35_LARGE
            | {
                "sample_size": _PATCH * size.side,
                "num_layers": size.blocks,
                "num_attention_heads": size.heads,
                "caption_projection_dim": size.heads * 64,
                "pos_embed_max_size": size.side,
            }
        )
        self.denoiser.requires_grad_(False).to(size.device)
        if size.dtype != torch.float32:  # diffusers warns of every conversion
            self.denoiser.to(size.dtype)
        # Adapters that start at zero would give half of the gradients as zeros.
        self.denoiser.add_adapter(
            LoraConfig(r=size.rank, target_modules=list(_ADAPTED), init_lora_weights=False)
        )
        self.adapters = [p for p in self.denoiser.parameters() if p.requires_grad]

    def __call__(self, way: str) -> list[Tensor]:
        """One step; gradients of the adapters' weights, in their order."""
        size = self.size
        layout = AttentionLayout(
            ((size.side, size.side),), text_tokens=_TEXT_TOKENS, text_first=False
        )
        reader: SelfAttentionReader | PlainReader = PlainReader(size.tokens)
        if way == "ours":
            reader = SelfAttentionReader(layout, differentiable=True)
        with reader:
            self.denoiser(
                hidden_states=self._random(1, 16, _PATCH * size.side, _PATCH * size.side),
                timestep=torch.zeros(1, device=size.device),
                encoder_hidden_states=self._random(1, _TEXT_TOKENS, 4096),
                pooled_projections=self._random(1, 2048),
            )
        # As a decoder does, weigh the keys of every row: the gradient reaches the whole map.
        attention = reader.attention()[0]
        readout = self._random(size.tokens, 4).to(attention.dtype)
        loss = (size.tokens**0.5 * (attention @ readout)).square().mean()
        # The graph also leads to the denoiser's output, which no loss here reads.
        gradients = torch.autograd.grad(loss, self.adapters, allow_unused=True)
        return [g for g in gradients if g is not None]

    def _random(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
        return values.to(self.size.device, self.size.dtype)


def gradients_apart(size: StepSize) -> float:
    """Largest difference of a gradient, as a share of the largest gradient of its tensor."""
    step = DistillationStep(size)
    pairs = zip(step("ours"), step("plain"), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def measure_step(way: str, size: StepSize, repeats: int) -> tuple[float, int]:
    """Median seconds of a step, and the bytes it takes above weights and inputs at its peak."""
    DistillationStep(StepSize(4, 2, 1, 4, size.dtype, size.device))(way)  # what is set up once
    step = DistillationStep(size)
    gc.collect()
    memory = PeakMemory(size.device)
    seconds = [timed(partial(step, way))[0] for _ in range(repeats)]
    return statistics.median(seconds), memory.growth()


def measure_in_process(way: str, size: StepSize, repeats: int) -> tuple[float, int]:
    """``measure_step`` in a process of its own, whose peak memory is nobody else's.

    Raises:
        MemoryError: the plain way does not fit this machine.
        RuntimeError: the process ended without a result.
    """
    if way == "plain" and size.plain_bytes > 0.9 * available_memory(size.device):
        raise MemoryError(
            f"the plain distillation step takes {size.plain_bytes / 2**30:.0f} GiB and more, and "
            f"{available_memory(size.device) / 2**30:.0f} GiB are left: use fewer heads, as "
            "--distillation 8"
        )
    seconds, peak = in_process(measure_step, way, size, repeats)
    return seconds, peak


def distillation_rows(size: StepSize, repeats: int) -> list[list[str]]:
    """Time, peak memory and gradients of both ways, as rows of the table.

    The gradients are compared on the same denoiser at a smaller grid, where both fit at once.
    """
    measured = [measure_in_process(way, size, repeats) for way in WAYS]
    seconds, peaks = zip(*measured, strict=True)
    small = replace(size, side=min(size.side, 16))
    dtype = str(size.dtype).removeprefix("torch.")
    name = f"{size.tokens} tokens, {size.heads} heads, {size.blocks} blocks, {dtype}"
    times = [f"{second:.2f} s" for second in seconds]
    gibibytes = [f"{peak / 2**30:.2f} GiB" for peak in peaks]
    apart = f"{gradients_apart(small):.1e}"
    return [
        [f"distillation step, {name}", *times, _ratio(*seconds), ""],
        ["the same, peak memory above the weights", *gibibytes, _ratio(*peaks), ""],
        [f"the same, gradients at {small.tokens} tokens (relative)", "", "", "", apart],
    ]


def _ratio(ours: float, plain: float) -> str:
    return f"{plain / max(ours, 1e-9):.1f} x"
