from __future__ import annotations

import subprocess
import sys

import pytest


def test_without_detectron2_only_the_evaluator_asks_for_it():
    # None in sys.modules makes an import fail as if the package were not there.
    code = (
        "import sys; sys.modules['detectron2'] = None; import trace_d2.evaluation\n"
        "try:\n    import trace_d2.evaluation.evaluators\n"
        "except ImportError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        pytest.fail(result.stderr)
    assert "needs Detectron2" in result.stdout
    assert "tools/install_detectron2.py" in result.stdout
