"""docs/config.md: made of the defaults, and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_d2.config import DEFAULTS, get_trace_cfg


@pytest.fixture
def tool(load_tool):
    return load_tool("write_config_docs")


def test_every_key_has_a_meaning(tool):
    described = list(tool.described(DEFAULTS.read_text(encoding="utf-8")))
    assert [name for name, value, meaning in described if value is not None and not meaning] == []
    cfg = get_trace_cfg()
    for name, value, _ in described:
        node = cfg
        for part in name.split("."):
            node = node[part]
        assert (value is None) == isinstance(node, dict), name


def test_the_page_is_current(tool):
    pytest.importorskip("detectron2")
    page = Path(__file__).parents[2] / "docs" / "config.md"
    expected = tool.page(DEFAULTS.read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8") == expected, "run python tools/write_config_docs.py"


def test_keys_stand_below_their_own_node(tool):
    text = "# a\n# b\nA:\n  # Of B.\n  B:\n    # Of\n    # X.\n    X: 1\n  # Of Y.\n  Y: [2]\n"
    assert list(tool.described(text)) == [
        ("A", None, ""),
        ("A.B", None, "Of B."),
        ("A.B.X", "1", "Of X."),
        ("A.Y", "[2]", "Of Y."),
    ]
    page = tool.page(text)
    assert page.index("## A.B\nOf B.") < page.index("| `X` | `1` | Of X. |")
    assert page.index("## A\n") < page.index("| `Y` | `[2]` | Of Y. |")
