"""Compiled denoisers: their maps are those of eager ones, and none is missed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.backbones.backbone import compile_network


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def read(case, **options: object) -> tuple[Tensor | None, SelfAttentionReader]:
    output = None
    with SelfAttentionReader(case.layout, **options) as reader:
        output = case.run()
    return output, reader


@pytest.mark.parametrize(
    ("family", "backend", "whole"),
    [
        ("sd15", "eager", False),
        ("pixart", "aot_eager", False),
        ("sd3", "eager", False),
        ("flux", "eager", False),
        ("pixart", "eager", True),
    ],
)
@torch.no_grad()
def test_compiled_denoisers_are_read(family, backend, whole, make_denoiser) -> None:
    case = make_denoiser(family)
    expected, eager = read(case)
    counter = CompileCounterWithBackend(backend)
    if whole:
        case.model.compile(backend=counter, fullgraph=True)
    else:
        compile_network(case.model, backend=counter, fullgraph=True)
    compiled = []
    for number in range(3):
        output, reader = read(case, network=case.model)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(reader.attention(), eager.attention(), rtol=0, atol=1e-6)
        assert reader.calls == len(case.calls)
        compiled.append(counter.frame_count)
        if number == 1:
            case.run()  # with nobody who reads: other graphs, which the next reading does not take
    assert compiled[0] == 0  # the first pass is watched closely
    assert 0 < compiled[1] < compiled[2]

    options = {"blocks": (0, 1), "stop_early": True}
    early = [read(case, network=case.model, **options) for _ in range(2)]
    _, part = read(case, blocks=(0, 1))
    for output, reader in early:
        assert output is None
        assert reader.calls == 2
        torch.testing.assert_close(reader.attention(), part.attention(), rtol=0, atol=1e-6)
    assert counter.frame_count == compiled[2]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.scaled_dot_product_attention(self.layer(x), x, x).tanh()


LAYOUT = AttentionLayout(((2, 3),))
X = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_what_inductor_makes_is_read() -> None:
    network = nn.Sequential(Block(), Block())
    maps = []
    network.compile(fullgraph=True)
    for _ in range(3):
        with SelfAttentionReader(LAYOUT, network=network) as reader:
            network(X)
        assert reader.calls == 2
        maps.append(reader.attention())
    torch.testing.assert_close(maps[1], maps[0], rtol=0, atol=1e-6)
    assert torch.equal(maps[1], maps[2])


def test_gradients_are_read_eagerly() -> None:
    network = nn.Sequential(Block(), Block())
    gradients = []
    network.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        network.zero_grad()
        with SelfAttentionReader(LAYOUT, network=network, differentiable=True) as reader:
            network(X)
        reader.attention().square().sum().backward()
        gradients.append(network[0].layer.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


@torch.no_grad()
def test_compiled_code_that_hides_attention_is_an_error_once() -> None:
    network = nn.Sequential(Block(), Block())

    def hiding(graph: torch.fx.GraphModule, _: object) -> object:
        for node in list(graph.graph.nodes):
            if "show_attention" in str(node.target):
                graph.graph.erase_node(node)
        graph.recompile()
        return graph.forward

    network[1].compile(backend=hiding)
    with SelfAttentionReader(LAYOUT, network=network) as first:
        network(X)

    def again() -> SelfAttentionReader:
        with SelfAttentionReader(LAYOUT, network=network) as reader:
            network(X)
        return reader

    with pytest.raises(RuntimeError, match="Sequential shows other attention calls"):
        again()
    for _ in range(2):
        assert torch.equal(again().attention(), first.attention())
