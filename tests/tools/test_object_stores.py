"""The study of jobs on an S3 server, in short: nothing is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_labels_by_way_of_a_server(tmp_path: Path, run_apart: Callable[..., tuple]) -> None:
    pytest.importorskip("moto.server", reason="needs the package moto[server]")
    found = tmp_path / "figures.json"
    options = ("--images", "3", "--scenes", "undisturbed", "--json", found, "--scratch", tmp_path)
    out, err = run_apart("studies/object_stores.py", *options)
    figures = json.loads(found.read_text())
    assert "undisturbed: 0 lost, 0 different" in out, err
    assert figures["images"] == figures["undisturbed"]["labels"] == 3
    assert figures["undisturbed"]["lost"] == figures["undisturbed"]["different"] == []
