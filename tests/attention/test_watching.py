"""Passes of a network that is known: nothing is missed, and nothing but attention is looked at."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.attention.watching import watch_attention

FAMILIES = ("sd15", "sdxl", "pixart", "sd3", "flux")
BY_NAME = functional.scaled_dot_product_attention
LAYOUT = AttentionLayout(((2, 3),))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """Two self-attentions of two heads; the second may be called by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.second = "attribute"

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            query = layer(x)
            if number == 1 and self.second == "name":
                x = x + BY_NAME(query, x, x)
            elif number == 0 or self.second == "attribute":
                x = x + functional.scaled_dot_product_attention(query, x, x)
        return x


def read(network: nn.Module, *call: Tensor, **options: object) -> SelfAttentionReader:
    with torch.no_grad(), SelfAttentionReader(LAYOUT, network=network, **options) as reader:
        network(*call)
    return reader


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_later_passes_show_what_the_first_did(family, make_denoiser) -> None:
    case = make_denoiser(family)
    plain, maps, modes = case.run(), [], []
    last = list(case.model.modules())[-1]
    last.register_forward_hook(lambda *_: modes.append(torch._C._is_torch_function_mode_enabled()))
    for _ in range(3):
        with SelfAttentionReader(case.layout, network=case.model) as reader:
            assert torch.equal(case.run(), plain)
        assert reader.calls == len(case.calls)
        maps.append(reader.attention())
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])
    assert modes == [True, False, False]
    assert functional.scaled_dot_product_attention is BY_NAME


@pytest.mark.parametrize("family", ["sd15", "pixart"])
@torch.no_grad()
def test_cross_attention_of_a_grids_length_is_known_again(family, make_denoiser) -> None:
    grid = make_denoiser(family).layout.largest
    case = make_denoiser(family, text=grid[0] * grid[1])
    maps = []
    for _ in range(2):
        with SelfAttentionReader(case.layout, network=case.model) as reader:
            case.run()
        assert reader.calls == len(case.calls)
        maps.append(reader.attention())
    assert torch.equal(*maps)


def test_a_function_that_was_taken_by_name_is_never_missed() -> None:
    network, x = Network(), random(1, 2, 6, 8)
    expected = read(network, x).attention()
    other = Network()
    other.load_state_dict(network.state_dict())
    other.second = "name"
    for _ in range(3):
        reader = read(other, x)
        assert reader.calls == 2
        assert torch.equal(reader.attention(), expected)


@pytest.mark.parametrize("change", ["name", "none"])
def test_a_network_that_hides_calls_after_its_first_pass_is_an_error(change) -> None:
    network, x = Network(), random(1, 2, 6, 8)
    assert read(network, x).calls == 2
    network.second = change
    with pytest.raises(RuntimeError, match=r"than in its first pass.*watched closely"):
        read(network, x)
    calls = 2 if change == "name" else 1
    assert [read(network, x).calls for _ in range(2)] == [calls, calls]


def test_calls_that_came_new_are_an_error() -> None:
    network, x = Network(), random(1, 2, 6, 8)
    network.second = "none"
    read(network, x)
    network.second = "attribute"
    with pytest.raises(RuntimeError, match="other attention calls"):
        read(network, x)
    assert read(network, x).calls == 2


def test_a_pass_that_failed_is_no_first_pass() -> None:
    network, x = Network(), random(1, 2, 6, 8)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        read(network, random(1, 2, 6, 7))
    network.layers.append(nn.Linear(8, 8))
    network.second = "name"
    assert [read(network, x).calls for _ in range(2)] == [2, 2]


def test_stops_early_are_known_apart() -> None:
    network, x = Network(), random(1, 2, 6, 8)
    assert read(network, x).calls == 2
    early = [read(network, x, blocks=(0,), stop_early=True) for _ in range(2)]
    assert [reader.calls for reader in early] == [1, 1]
    assert torch.equal(early[0].attention(), read(network, x, blocks=(0,)).attention())


def test_multi_head_attention_of_pytorch_is_seen() -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), random(1, 6, 8)
    for _ in range(2):
        with SelfAttentionReader(LAYOUT, network=attention) as reader:
            attention(x, x, x, need_weights=False)
        assert reader.calls == 1


def test_readers_one_inside_the_other_see_the_same() -> None:
    network, x = Network(), random(1, 2, 6, 8)
    read(network, x)
    options = {"network": network, "blocks": (1,)}
    with torch.no_grad(), SelfAttentionReader(LAYOUT) as outer:
        with SelfAttentionReader(LAYOUT, **options) as inner:
            network(x)
        network(x)
    assert (outer.calls, inner.calls) == (4, 2)


def test_a_wrapper_that_comes_meanwhile_stays_and_is_counted_once(monkeypatch) -> None:
    network, x = Network(), random(1, 2, 6, 8)
    runs = []
    read(network, x)
    with torch.no_grad(), SelfAttentionReader(LAYOUT, network=network) as reader:
        ours = functional.scaled_dot_product_attention

        def wrapper(*args: object, **kwargs: object) -> Tensor:
            runs.append(1)
            return ours(*args, **kwargs)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", wrapper)
        network(x)
    assert (reader.calls, len(runs)) == (2, 2)
    assert functional.scaled_dot_product_attention is wrapper
    assert read(network, x).calls == 2
    assert len(runs) == 4
    # What it calls is ours still, when it is put back; nobody watches by then.
    monkeypatch.setattr(functional, "scaled_dot_product_attention", BY_NAME)
    assert read(network, x).calls == 2


def test_threads_read_their_own_networks_at_once() -> None:
    networks, x = [Network() for _ in range(2)], random(1, 2, 6, 8)
    alone = [[read(network, x).attention() for _ in range(2)][1] for network in networks]
    together: list[list[Tensor]] = [[], []]
    start = threading.Barrier(2)

    def run(number: int) -> None:
        start.wait(60)
        for _ in range(30):
            reader = read(networks[number], x)
            assert reader.calls == 2
            together[number].append(reader.attention())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, maps in zip(alone, together, strict=True):
        assert len(maps) == 30
        assert all(torch.equal(attention, expected) for attention in maps)
    assert functional.scaled_dot_product_attention is BY_NAME


def test_the_compiler_goes_on_once_nobody_watches_closely() -> None:
    from torch._dynamo import eval_frame

    before = eval_frame._stance.stance
    first, second = (watch_attention(lambda *call: None, closely=True) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # as of two threads, the first comes and goes first
    assert eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert eval_frame._stance.stance == before
