#!/usr/bin/env python3
"""The checks that need a GPU, part by part: tests, kernels, real sizes, a training step, labels.

Every part has a process and a time limit of its own. What fails is reported with its last lines and
the rest goes on; a part that is ended keeps what it has measured. Parts stand in the order of their
worth, so that those at the end are left out where time runs short. Weights are random, of the
published configurations: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LAST_LINES = 12
_LEAST_SECONDS = 5  # a part that has less is left out
_SMALL_PATIENCE = 5  # as often the limits where sizes are tiny and the machine may be busy


@dataclass(frozen=True)
class Part:
    """A module of ``gpu_checks`` whose ``run(check, *arguments)`` measures.

    ``limit`` is in seconds, on one H100.
    """

    name: str
    module: str
    limit: float
    arguments: tuple[Any, ...] = ()


PARTS = (
    Part("machine", "machine", 60),
    Part("kernels", "kernels", 90),
    Part("vae", "vae", 60),
    Part("tests", "gpu_tests", 120),
    Part("sd35-large", "models", 120, ("sd35-large",)),
    Part("host", "host", 60),
    Part("distillation", "distillation", 75),
    Part("truncated", "truncated", 60),
    Part("sdxl", "models", 60, ("sdxl",)),
    Part("sd15", "models", 45, ("sd15",)),
    Part("labels", "labels", 90),
    Part("memory", "memory", 60),
)
# Imported once, before the parts are forked off; what is missing fails in the part that needs it.
_LIBRARIES = ("torch", "transformers", "diffusers")
_COMMON = ("gpu_checks.common", "gpu_checks.host", "peft", "random_backbone")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [part.name for part in PARTS]
    add("--output", type=Path, default=Path("gpu_check"), help="default %(default)s/")
    add("--device", default="cuda", help="default %(default)s")
    add("--small", action="store_true", help="tiny sizes, to try the tool")
    add("--budget", type=float, default=470, help="seconds for everything; default %(default)s")
    add("--parts", nargs="+", choices=names, default=names, help="default: all")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write the report; the exit status is 1 if anything failed."""
    args = parse_arguments(arguments)
    end = time.monotonic() + args.budget
    (args.output / "logs").mkdir(parents=True, exist_ok=True)
    if args.device == "cpu":  # Triton's kernels in its interpreter
        os.environ["TRITON_INTERPRET"] = "1"
    # Otherwise a question about CUDA in this process would forbid CUDA in its children.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    sys.path.insert(0, str(Path(__file__).parent))
    _import_common(args.device)
    results: dict[str, Any] = {}
    start = "fork"
    for part in [part for part in PARTS if part.name in args.parts]:
        results[part.name] = run_part(part, args, end - time.monotonic(), start)
        if part.module == "machine" and results[part.name]["status"] != "done":
            start = "spawn"  # perhaps this process has opened CUDA
            results[part.name] = run_part(part, args, end - time.monotonic(), start)
        _write_report(args, results)
    return int(any(result["status"] != "done" for result in results.values()))


def run_part(part: Part, args: argparse.Namespace, left: float, start: str) -> dict[str, Any]:
    """Status, seconds and measurements of a part; never an error."""
    limit = min(part.limit * (_SMALL_PATIENCE if args.small else 1), left)
    if limit < _LEAST_SECONDS:
        return _told(part, {"status": "left out: no time", "seconds": 0.0, "measured": {}})
    log, measured = args.output / "logs" / f"{part.name}.txt", args.output / f"{part.name}.json"
    measured.unlink(missing_ok=True)
    begun = time.monotonic()
    context: Any = multiprocessing.get_context(start)
    process = context.Process(target=_work, args=(part, args.device, args.small, log, measured))
    process.start()
    process.join(limit)
    status = {None: f"ended at its limit of {limit:.0f} s", 0: "done"}.get(
        process.exitcode, f"failed with status {process.exitcode}"
    )
    _end(process)
    result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - begun, 1)}
    result["measured"] = json.loads(measured.read_text()) if measured.is_file() else {}
    measured.unlink(missing_ok=True)
    if status != "done":
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        result["last_lines"] = [line[:300] for line in lines[-_LAST_LINES:]]
    return _told(part, result)


def _work(part: Part, device: str, small: bool, log: Path, measured: Path) -> None:
    """What the process of a part does."""
    os.setsid()  # its children end with it
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        from gpu_checks.common import Check

        check = Check(device, small, measured)
        importlib.import_module(f"gpu_checks.{part.module}").run(check, *part.arguments)
        status = int(check.failed)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads and handlers of what was imported might hang


def _end(process: Any) -> None:
    """Kills the process and its children, if any of them runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _told(part: Part, result: dict[str, Any]) -> dict[str, Any]:
    print(f"{part.name}: {result['status']}, {result['seconds']} s", flush=True)
    for line in result.get("last_lines", ()):
        print(f"    {line}", flush=True)
    return result


def _import_common(device: str) -> None:
    # peft imports bitsandbytes, which opens CUDA as it is imported: none of that is for the parent.
    sound = device == "cpu" or importlib.util.find_spec("bitsandbytes") is None
    for module in (*_LIBRARIES, *(_COMMON if sound else ())):
        try:
            importlib.import_module(module)
        except Exception as error:
            print(f"{module} cannot be imported: {type(error).__name__}: {error}", flush=True)


def _write_report(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """gpu_check.json and gpu_check.md of what is there so far."""
    (args.output / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
    from gpu_checks.report import report

    (args.output / "gpu_check.md").write_text(report(results, args.device, args.small))


if __name__ == "__main__":
    sys.exit(main())
