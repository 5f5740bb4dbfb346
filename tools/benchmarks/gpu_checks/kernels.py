"""The kernels alone, at a block of Stable Diffusion 3.5 Large, against the plain way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gpu_checks.common import KERNELS, Check, apart
from trace_d2.attention import mean_divergence_tensor
from trace_d2.attention.operators import accumulate_mean_softmax, mean_softmax
from trace_d2.edges import attention_boundary_divergence

# Rows, keys, warps and stages of a program.
_TILES = ((128, 64, 4, 3), (64, 128, 4, 3), (128, 128, 8, 3), (64, 64, 4, 2), (64, 64, 8, 3))


@dataclass(frozen=True)
class Block:
    """Queries and keys (1, heads, tokens, d) of the image, as views into a joint sequence."""

    query: Tensor
    key: Tensor

    @classmethod
    def random(cls, heads: int, tokens: int, prompt: int, device: torch.device) -> Block:
        """Of unit variance, bfloat16."""
        generator = torch.Generator(device).manual_seed(0)

        def make() -> Tensor:
            joint = torch.randn(1, tokens + prompt, heads, 64, device=device, generator=generator)
            return joint.bfloat16().transpose(1, 2)[:, :, :tokens]

        return cls(make(), make())

    @property
    def scale(self) -> float:
        return float(self.query.shape[-1] ** -0.5)

    @property
    def tokens(self) -> int:
        return self.query.shape[2]

    def exact_map(self) -> Tensor:
        """In float64, a head at a time."""
        heads = zip(self.query[0].double(), self.key[0].double(), strict=True)
        softmax = [torch.softmax(self.scale * query @ key.T, -1) for query, key in heads]
        total = softmax.pop()
        while softmax:
            total += softmax.pop()
        return total[None] / self.query.shape[1]

    def exact_gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of query and key in float64, where ``grad`` is that of the map."""
        found = []
        for query, key in zip(self.query[0].double(), self.key[0].double(), strict=True):
            pair = query.requires_grad_(), key.requires_grad_()
            softmax = torch.softmax(self.scale * query @ key.T, -1) / self.query.shape[1]
            found.append(torch.autograd.grad(softmax, pair, grad[0].double()))
        queries, keys = zip(*found, strict=True)
        return torch.stack(queries)[None], torch.stack(keys)[None]


def run(check: Check) -> None:
    """Measure."""
    heads, side, prompt = check.size((38, 64, 333), (2, 8, 5))
    block = Block.random(heads, side**2, prompt, check.device)
    exact = check.measure_quietly("map in float64", block.exact_map)
    out = torch.zeros(1, block.tokens, block.tokens, device=check.device)
    for kernels in KERNELS:
        check.measure(
            f"{kernels}: map of a block", partial(_map, check, block, out, exact, kernels)
        )
    _measure_tiles(check, block, out)
    _measure_gradients(check, block)
    _measure_divergences(check, side, exact)


def _map(
    check: Check, block: Block, out: Tensor, exact: Tensor | None, kernels: str
) -> dict[str, float]:
    def add() -> None:
        accumulate_mean_softmax(block.query, block.key, out, scale=block.scale, kernels=kernels)

    out.zero_()
    add()
    errors = {} if exact is None else apart(out, exact)
    return errors | {"ms": check.milliseconds(add, 10)}


def _measure_tiles(check: Check, block: Block, out: Tensor) -> None:
    """The map with other tiles than those that are taken."""
    from trace_d2.attention.kernels import mean_softmax as module
    from trace_d2.attention.kernels.tiles import Tiles

    chosen = module.map_tiles
    try:
        for tiles in check.size(_TILES, _TILES[:1]):
            own = Tiles(*tiles)
            module.map_tiles = lambda *_, own=own: own
            check.measure(
                "triton: map of a block, tiles of {} x {}, {} warps, {} stages".format(*tiles),
                lambda: _map(check, block, out, None, "triton"),
            )
    finally:
        module.map_tiles = chosen


def _measure_gradients(check: Check, block: Block) -> None:
    generator = torch.Generator(check.device).manual_seed(1)
    shape = (1, block.tokens, block.tokens)
    grad = torch.randn(shape, device=check.device, generator=generator)
    exact = check.measure_quietly("gradients in float64", lambda: block.exact_gradients(grad))

    def measure(kernels: str) -> dict[str, float]:
        pair = [t.detach().requires_grad_() for t in (block.query, block.key)]
        made = mean_softmax(*pair, scale=block.scale, kernels=kernels)

        def back() -> tuple[Tensor, ...]:
            return torch.autograd.grad(made, pair, grad, retain_graph=True)

        errors = [apart(a, b)["relative"] for a, b in zip(back(), exact or (), strict=bool(exact))]
        return {"relative": max(errors, default=-1.0), "ms": check.milliseconds(back, 3, 1)}

    for kernels in KERNELS:
        check.measure(f"{kernels}: gradients of a block", partial(measure, kernels))


def _measure_divergences(check: Check, side: int, exact: Tensor | None) -> None:
    """KL of two maps and ABDiv."""
    if exact is None:
        return
    generator = torch.Generator(check.device).manual_seed(2)
    noise = torch.randn(exact.shape[1:], device=check.device, generator=generator)
    pair = exact[0].float(), torch.softmax(exact[0].log().float() + 0.3 * noise, -1)
    grid = (side, side)

    def divergence(first: Tensor, second: Tensor, kernels: str) -> Tensor:
        return mean_divergence_tensor(first, second, kernels=kernels)

    def abdiv(first: Tensor, _: Tensor, kernels: str) -> Tensor:
        return attention_boundary_divergence(first, grid, kernels=kernels)

    for name, way in {"divergence of two maps": divergence, "ABDiv": abdiv}.items():
        for kernels in KERNELS:
            work = partial(_against_float64, check, way, pair, kernels)
            check.measure(f"{kernels}: {name}", work)


def _against_float64(
    check: Check, way: Callable[..., Tensor], pair: tuple[Tensor, Tensor], kernels: str
) -> dict[str, float]:
    exact = way(*(one.double() for one in pair), kernels="plain")
    errors = apart(way(*pair, kernels=kernels), exact)
    return errors | {"ms": check.milliseconds(lambda: way(*pair, kernels=kernels), 10)}
