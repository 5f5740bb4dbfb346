"""The tests that are marked gpu, those of the kernels included."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

from gpu_checks.common import ROOT, Check

# The rest imports Detectron2.
_FOLDERS = ("attention", "edges", "backbones", "model_zoo")
_SMALL = ("io/test_limits.py",)


def run(check: Check) -> None:
    """Measure."""
    check.measure("tests", lambda: _run_tests(check))


def _run_tests(check: Check) -> dict[str, Any]:
    """How many tests passed, and which did not.

    Raises:
        RuntimeError: a test failed; the log has pytest's report.
    """
    report = check.path.with_suffix(".xml")
    marked = [] if check.small else ["-m", "gpu"]
    paths = [f"tests/{name}" for name in (_SMALL if check.small else _FOLDERS)]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", f"--junitxml={report.resolve()}"]
    status = subprocess.run([*command, *marked, *paths], cwd=ROOT, check=False).returncode
    if not report.is_file():
        raise RuntimeError(f"pytest ended with status {status} and no report")
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    report.unlink()
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    if failed or not cases:
        raise RuntimeError(f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed[:20])}")
    return {"passed": len(cases) - skipped, "skipped": skipped}
