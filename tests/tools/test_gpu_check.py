"""tools/benchmarks/gpu_check.sh at tiny size on the CPU, and what it makes of parts that fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = REPOSITORY / "tools" / "benchmarks"


def test_all_parts_run_at_tiny_size_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "check"
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(BENCHMARKS / "gpu_check.sh"), "--small", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--output", str(output), "--budget", "1500"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    results = json.loads((output / "gpu_check.json").read_text())
    told = done.stdout + done.stderr
    assert {name: one["status"] for name, one in results.items()} == dict.fromkeys(
        ["machine", "kernels", "vae", "tests", "sd35-large", "host", "distillation", "truncated",
         "sdxl", "sd15", "labels", "memory"],
        "done",
    ), told  # fmt: skip
    assert done.returncode == 0, told
    measured = {name: one["measured"] for name, one in results.items()}
    for kernels in ("triton", "plain"):
        assert measured["kernels"][f"{kernels}: map of a block"]["relative"] < 1e-5
        assert measured["kernels"][f"{kernels}: gradients of a block"]["relative"] < 1e-2
        assert measured["kernels"][f"{kernels}: ABDiv"]["relative"] < 1e-5
    for way in ("kernels", "PyTorch"):
        found = measured["vae"][f"{way}: group norm and SiLU of 4 channels, 16 x 16, float32"]
        assert found["relative"] < 1e-6
    assert measured["vae"]["PyTorch: encoder, float32, its latent"]["relative"] < 1e-5
    for name in ("sd35-large", "sdxl", "sd15"):
        for what in ("teacher, ms", "student, ms"):
            assert measured[name][f"plain: {what}"] > 0
    assert measured["tests"]["tests"]["passed"] > 0
    assert measured["host"]["launches of the maps"] > 0
    assert measured["labels"]["edges against the CPU's, float32"]["teacher"] == 0
    page = (output / "gpu_check.md").read_text()
    assert "Tried on cpu, at tiny size: no figures of a GPU." in page
    figures = page[page.index("## Figures") : page.index("## Parts")]
    assert figures.count("\n| ") == 10
    assert {path.stem for path in (output / "logs").iterdir()} == set(results)


PARTS = {
    "good": "def run(check):\n    check.measure('number', lambda: 2.5)\n",
    "erring": (
        "def run(check):\n"
        "    check.measure('first', lambda: 1)\n"
        "    check.measure('second', lambda: 1 / 0)\n"
        "    check.measure('third', lambda: 3)\n"
    ),
    "missing": "import no_such_package\n",
    "hanging": (
        "import subprocess, sys\n"
        "def run(check):\n"
        "    check.measure('before', lambda: 1)\n"
        "    child = [sys.executable, '-c', 'import time; print(7, flush=True); time.sleep(600)']\n"
        "    subprocess.run(child)\n"
    ),
    "killed": (
        "import os\n"
        "def run(check):\n"
        "    check.measure('before', lambda: 1)\n"
        "    os.kill(os.getpid(), 9)\n"
    ),
}
DRIVER = """
import sys, pathlib
sys.path[:0] = [{benchmarks!r}, {repository!r}]
import gpu_check, gpu_checks
gpu_checks.__path__.append({folder!r})
Part = gpu_check.Part
gpu_check.PARTS = (
    Part("machine", "good", 60), Part("erring", "erring", 60), Part("missing", "missing", 60),
    Part("hanging", "hanging", 4), Part("killed", "killed", 60), Part("last", "good", 60),
)
gpu_check._LIBRARIES, gpu_check._COMMON = ("torch",), ("gpu_checks.common",)
for gpu_check._LEAST_SECONDS in (1e6, 2):
    options = ["--device", "cpu", "--output", {output!r} + f"/{{gpu_check._LEAST_SECONDS:g}}"]
    print("status", gpu_check.main(options))
"""


@pytest.fixture(scope="module")
def ran_parts(tmp_path_factory: pytest.TempPathFactory):
    """``ran_parts(least)``: what the parts above say, those with less seconds left out.

    The exit status and all that was printed, the results and the page; for 1e6 and 2 seconds.
    """
    folder = tmp_path_factory.mktemp("parts")
    for name, code in PARTS.items():
        (folder / f"{name}.py").write_text(code)
    code = DRIVER.format(
        benchmarks=str(BENCHMARKS), repository=str(REPOSITORY), folder=str(folder),
        output=str(folder / "out"),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *told, end = re.split(r"status (\d)\n", done.stdout)
    assert not end
    outcomes = dict(zip(("1e+06", "2"), zip(told[1::2], told[::2], strict=True), strict=True))

    def of(least: float) -> tuple[int, str, dict, str]:
        status, said = outcomes[f"{least:g}"]
        output = folder / "out" / f"{least:g}"
        results = json.loads((output / "gpu_check.json").read_text())
        return int(status), said, results, (output / "gpu_check.md").read_text()

    return of


def test_a_part_that_fails_is_reported_and_the_rest_goes_on(ran_parts) -> None:
    status, said, results, page = ran_parts(2)
    assert status == 1
    assert {name: one["status"] for name, one in results.items()} == {
        "machine": "done",
        "erring": "failed with status 1",
        "missing": "failed with status 1",
        "hanging": "ended at its limit of 4 s",
        "killed": "failed with status -9",
        "last": "done",
    }
    erring = results["erring"]["measured"]
    assert (erring["first"], erring["third"]) == (1, 3)
    assert "ZeroDivisionError" in erring["second"]["error"]
    assert results["hanging"]["measured"] == results["killed"]["measured"] == {"before": 1}
    assert "No module named 'no_such_package'" in results["missing"]["last_lines"][-1]
    assert "No module named 'no_such_package'" in said
    assert results["last"]["measured"] == {"number": 2.5}
    assert "| hanging | ended at its limit of 4 s |" in page
    assert "ZeroDivisionError" in page


def test_parts_for_which_no_time_is_left_are_left_out(ran_parts) -> None:
    status, _, results, page = ran_parts(1e6)
    assert status == 1
    assert {one["status"] for one in results.values()} == {"left out: no time"}
    assert "not measured" in page
