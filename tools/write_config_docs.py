#!/usr/bin/env python3
"""Write docs/config.md: every TRACE key with its meaning, default and limits.

    python tools/write_config_docs.py

The keys are those of trace_d2/defaults.yaml, the limits those of the settings classes that read
them (trace_d2/settings.py).
"""

from __future__ import annotations

import argparse
import importlib
import math
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import trace_d2
from trace_d2.config import DEFAULTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "config.md"
HEAD = """# Every key

Made from `trace_d2/defaults.yaml` by `python tools/write_config_docs.py`. Keys can follow any
command as `KEY VALUE`, and stand in YAML files as in `configs/`.
"""
_LINE = re.compile(r"^(?P<indent> *)(?:# ?(?P<comment>.*)|(?P<key>\w+):(?: (?P<value>.+))?)$")


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    PAGE.write_text(page(DEFAULTS.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
    return 0


def page(defaults: str) -> str:
    """The page as Markdown, of the text of ``defaults.yaml``."""
    known = limits()
    meanings: dict[str, str] = {}
    rows: dict[str, list[str]] = {}
    for name, value, meaning in described(defaults):
        if value is None:
            meanings[name] = meaning
            continue
        node, _, key = name.rpartition(".")
        limit = f" ({known[name]})" if name in known else ""
        rows.setdefault(node, []).append(f"| `{key}` | `{value}` | {meaning}{limit} |")
    lines = [HEAD]
    for node, own in rows.items():
        lines += [f"## {node}", *filter(None, [meanings[node]]), ""]
        lines += ["| key | default | meaning |", "| --- | --- | --- |", *own, ""]
    return "\n".join(lines)


def described(defaults: str) -> Iterator[tuple[str, str | None, str]]:
    """Name, default (None of a node) and meaning of every entry, in order."""
    path: list[str] = []
    comment: list[str] = []
    # The first two lines are about the file.
    for line in defaults.splitlines()[2:]:
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"{DEFAULTS}: cannot read {line!r}")
        if match["key"] is None:
            comment.append(match["comment"])
            continue
        path[len(match["indent"]) // 2 :] = [match["key"]]
        yield ".".join(path), match["value"], " ".join(comment)
        comment.clear()


def limits() -> dict[str, str]:
    """Choices or bounds by key, of every settings class of the package."""
    from trace_d2.settings import NodeSettings

    for module in pkgutil.walk_packages(trace_d2.__path__, "trace_d2."):
        importlib.import_module(module.name)
    found = {}
    for kind in NodeSettings.__subclasses__():
        for field in fields(kind):
            name = f"{kind.node}.{field.name.upper()}"
            if "choices" in field.metadata:
                found[name] = "one of " + ", ".join(f"`{c}`" for c in field.metadata["choices"])
            elif "bounds" in field.metadata:
                low, high = field.metadata["bounds"]
                found[name] = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
    return found


if __name__ == "__main__":
    sys.exit(main())
