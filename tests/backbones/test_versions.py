"""Packages that are too old are named before a model is loaded."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from trace_d2.backbones import build_backbone
from trace_d2.backbones.versions import OLDEST, check_versions
from trace_d2.config import get_trace_cfg

SETUP = Path(__file__).parents[2] / "setup.py"


def test_they_are_those_of_the_installation():
    stated = dict(re.findall(r'"([a-z]+)>=([\d.]+)"', SETUP.read_text(encoding="utf-8")))
    assert {name: stated[name] for name in OLDEST} == OLDEST


def test_what_is_installed_here_is_not_too_old():
    check_versions()


def test_old_packages_and_the_remedy_are_named(monkeypatch):
    installed = importlib.metadata.version
    old = {"diffusers": "0.39.2.dev0", "transformers": "4.57.1", "peft": "0.18.0"}
    monkeypatch.setattr(importlib.metadata, "version", lambda n: old.get(n) or installed(n))
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    with pytest.raises(
        ImportError,
        match=r"diffusers 0\.39\.2\.dev0 \(needed: 0\.40\), transformers 4\.57\.1 \(needed: 5\.0\)"
        r"\. Run `pip install 'accelerate>=1\.2' 'diffusers>=0\.40'",
    ):
        build_backbone(cfg)
