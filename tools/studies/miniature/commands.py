"""Published commands, what takes their place in miniature, and one run of each in this process."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Rules = Sequence[tuple[str, str]]
"""Patterns of what is published, and what takes their place (as ``re.sub``), one after another."""


def in_miniature(text: str, rules: Rules, known: Callable[[str], str]) -> str:
    """``text`` by ``rules``; of ``{name}`` in them becomes ``known("name")``."""
    for published, instead in rules:
        text = re.sub(published, instead, text)
    return re.sub(r"\{([\w-]+)\}", lambda found: known(found[1]), text)


def run(command: str) -> int:
    """Run ``command`` in the folder we are in; its exit status.

    A script of Python runs in this process by its ``main``; ``cat`` prints.

    Raises:
        ValueError: it is neither.
    """
    words = shlex.split(command)
    if words[0] == "cat":
        print(Path(words[1]).read_text(encoding="utf-8"))
        return 0
    if words[0] != "python":
        raise ValueError(f"neither python nor cat: {command}")
    script = Path(words[1])
    sys.path.insert(0, str(script.parent.resolve()))
    try:
        return int(runpy.run_path(str(script))["main"](words[2:]))
    finally:
        sys.path.pop(0)


@contextmanager
def data_sets(root: Path) -> Iterator[None]:
    """Names of data sets as a new process would find them, ``root`` being where data lies.

    Afterwards they are again what they were.
    """
    with _environment("DETECTRON2_DATASETS", str(root)):
        _register_again()
        before = _registered()
        try:
            yield
        finally:
            for name in _registered() - before:
                _forget(name)
    _register_again()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _register_again() -> None:
    """The built-in names at the root of now, if anybody has registered them."""
    builtin = sys.modules.get("trace_d2.data.builtin_datasets")
    if builtin is not None:
        for name in builtin.NAMES:
            _forget(name)
        builtin.register_builtin_datasets()


def _registered() -> set[str]:
    catalog = sys.modules.get("detectron2.data.catalog")
    builtin = sys.modules.get("trace_d2.data.builtin_datasets")
    names = set(catalog.DatasetCatalog) if catalog is not None else set()
    return names if builtin is None else names - set(builtin.NAMES)


def _forget(name: str) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
