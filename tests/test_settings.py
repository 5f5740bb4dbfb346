"""Settings read their node and check themselves."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass

import pytest
from fvcore.common.config import CfgNode

import trace_d2
from trace_d2.config import get_trace_cfg
from trace_d2.settings import NodeSettings, one_of, within


@dataclass(frozen=True)
class Example(NodeSettings, node="A.B"):
    cut: str = one_of("basins", "components", default="basins")
    share: float = within(0.0, 1.0, default=0.5)
    sizes: tuple[int, ...] = within(1, default=(4, 8))
    name: str = ""
    free: float = 0.0


def config(**values: object) -> CfgNode:
    node = {"CUT": "components", "SHARE": 1.0, "SIZES": [1, 2], "NAME": "x", "OTHER": 3, "FREE": 0}
    return CfgNode({"A": {"B": {**node, **values}}})


def test_reads_its_node():
    assert Example.from_config(config()) == Example("components", 1.0, (1, 2), "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"CUT": "knife"}, r"A\.B\.CUT must be one of basins, components, not 'knife'"),
        ({"SHARE": 1.01}, r"A\.B\.SHARE must be in 0\.\.1, not 1\.01"),
        ({"SHARE": math.nan}, r"A\.B\.SHARE must be in 0\.\.1, not nan"),
        ({"SIZES": [4, 0]}, r"A\.B\.SIZES must be 1 or more, not 0"),
    ],
)
def test_names_the_key_of_a_wrong_value(values, message):
    with pytest.raises(ValueError, match=message):
        Example.from_config(config(**values))


def test_names_all_wrong_keys_at_once():
    with pytest.raises(ValueError, match="several things are wrong") as error:
        Example.from_config(config(CUT="knife", SHARE="x", SIZES=[0], NAME=3))
    assert [line.split()[1] for line in str(error.value).splitlines()[1:]] == [
        *("A.B.CUT", "A.B.SHARE", "A.B.SIZES", "A.B.NAME")
    ]


def test_defaults_are_those_of_the_config():
    """Every settings class of the package agrees with ``config`` key by key."""
    for module in pkgutil.walk_packages(trace_d2.__path__, "trace_d2."):
        importlib.import_module(module.name)
    found = [c for c in NodeSettings.__subclasses__() if c.__module__.startswith("trace_d2.")]
    cfg = get_trace_cfg()
    for kind in found:
        assert kind.from_config(cfg) == kind(), kind


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SHARE": [0.5]}, r"A\.B\.SHARE must be one value, not \(0\.5,\)"),
        ({"SHARE": "0.5"}, r"A\.B\.SHARE must be a number, not '0\.5'"),
        ({"SHARE": True}, r"A\.B\.SHARE must be a number, not True"),
        ({"SIZES": 4}, r"A\.B\.SIZES must be a list, not 4"),
        ({"SIZES": ["a"]}, r"A\.B\.SIZES must be a whole number, not 'a'"),
        ({"SIZES": [1.5]}, r"A\.B\.SIZES must be a whole number, not 1\.5"),
        ({"SIZES": [[1]]}, r"A\.B\.SIZES must be a whole number, not \[1\]"),
        ({"NAME": 3}, r"A\.B\.NAME must be a text, not 3"),
        ({"NAME": None}, r"A\.B\.NAME must be a text, not None"),
        ({"FREE": math.inf}, r"A\.B\.FREE must be a finite number, not inf"),
    ],
)
def test_names_the_key_of_a_value_of_another_kind(values, message):
    with pytest.raises(ValueError, match=message):
        Example.from_config(config(**values))


def test_choices_are_those_that_are_there():
    """Settings name them, so that they are checked without PyTorch."""
    from trace_d2.attention import DIVERGENCES
    from trace_d2.attention.settings import METRICS
    from trace_d2.edges.abdiv import _DIRECTIONS
    from trace_d2.edges.lora import _KINDS
    from trace_d2.edges.settings import LORA_LAYERS, NEIGHBOURHOODS

    assert tuple(DIVERGENCES) == METRICS
    assert tuple(_DIRECTIONS) == NEIGHBOURHOODS
    assert tuple(_KINDS) == LORA_LAYERS


def test_a_choice_that_is_nearly_one_is_guessed():
    with pytest.raises(ValueError, match=r"not 'basin' \(did you mean basins\?\)$"):
        Example.from_config(config(CUT="basin"))
