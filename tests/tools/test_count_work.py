"""tools/benchmarks/count_work.py: what it counts by hand, and what reading SD3.5-L may cost."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional

META = torch.device("meta")


@pytest.fixture
def counts(load_tool):
    return load_tool("work_counts")


def test_launches_are_what_computes(counts) -> None:
    x = torch.zeros(1, 2, 4, 8, device=META)

    def work() -> None:
        (x + 1).transpose(0, 1).flatten()[:3].mul_(2)
        torch.empty(3, device=META)
        torch.zeros(4).sum().item()  # of the CPU alone
        functional.scaled_dot_product_attention(x, x, x)

    found = counts.count(work)
    assert found.launches == 3
    assert found.operations > 5
    assert not found.waits


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0, 2.0], device=META),
        lambda x: torch.arange(2).to(META),
        lambda x: x.copy_(torch.ones(2)),
    ],
)
def test_waits_are_found_with_their_place(work, counts) -> None:
    found = counts.count(lambda: work(torch.zeros(2, device=META)))
    assert found.waits.total() == 1
    assert "tests/tools/test_count_work.py:" in next(iter(found.waits))


def test_errors_that_are_no_waits_are_not_hidden(counts) -> None:
    with pytest.raises(RuntimeError, match="broadcast"):
        counts.count(lambda: torch.zeros(2, device=META) + torch.zeros(3, device=META))


def test_reading_waits_for_nothing_and_launches_little(load_tool, tmp_path, capsys) -> None:
    tool, file = load_tool("count_work"), tmp_path / "counts.json"
    command = ["--architectures", "sd35-large", "--repeats", "1", "--json", str(file)]
    assert tool.main(command) == 0
    found = json.loads(file.read_text())["sd35-large"]
    assert (found["attention_calls"], found["tokens"]) == (38, 4096)
    assert 38 <= found["launches_of_the_map"] <= 150
    assert {part: found[part]["places"] for part in tool.PARTS} == {p: {} for p in tool.PARTS}
    assert "sd35-large" in capsys.readouterr().out
