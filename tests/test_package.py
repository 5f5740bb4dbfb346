"""What ``import trace_d2`` promises: light, and usable without Detectron2."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trace_d2

NEEDS_DETECTRON2 = {
    "ClassAgnosticEvaluator",
    "EdgeEvaluator",
    "PanopticQualityEvaluator",
    "SemanticEvaluator",
    "TraceDatasetMapper",
    "TraceEdgeDatasetMapper",
    "register_class_agnostic",
    "register_from_config",
    "register_sem_seg",
    "register_trace_edges",
    "register_trace_panoptic",
    "register_trace_semantic",
    "with_postprocessor",
}
WITHOUT_DETECTRON2 = "import sys; sys.modules['detectron2'] = None; import trace_d2\n"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, trace_d2; print(sorted({'torch', 'diffusers', 'cv2'} & set(sys.modules)))"
    assert run(code) == "[]\n"


def test_completion_shows_names_before_their_first_use():
    assert set(trace_d2.__all__) <= set(dir(trace_d2))
    assert set(trace_d2.__all__) > NEEDS_DETECTRON2


def test_the_plugin_resolves():
    pytest.importorskip("detectron2")
    assert trace_d2.PanopticQualityEvaluator.__name__ == "PanopticQualityEvaluator"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = trace_d2.nonsense


def test_all_but_the_plugin_works_without_detectron2():
    """In one process: the names that need Detectron2 say what to install, the others are there."""
    code = (
        WITHOUT_DETECTRON2
        + f"needing = {NEEDS_DETECTRON2}\n"
        + "for name in sorted(needing):\n"
        + "    try: getattr(trace_d2, name)\n"
        + "    except ImportError as error: print(name, error)\n"
        + "for name in set(trace_d2.__all__) - needing: getattr(trace_d2, name)\n"
    )
    told = run(code).splitlines()
    assert [line.split()[0] for line in told] == sorted(NEEDS_DETECTRON2)
    assert all("python tools/install_detectron2.py" in line for line in told), told
