"""The project's commands as a study runs them: as a user would type them."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class CommandError(RuntimeError):
    """A command ended with ``status``; its own message is on the screen or in its log."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run_tool(
    tool: str, *arguments: object, log: Path | None = None, threads: int | None = None
) -> None:
    """Run ``tools/<tool>.py``; with ``log``, which gets what it prints, in a process of its own.

    Raises:
        CommandError: it failed.
    """
    words = [str(argument) for argument in arguments]
    path = ROOT / "tools" / f"{tool}.py"
    if log is None:
        print(f"\n$ python tools/{tool}.py {shlex.join(words)}", flush=True)
        status = runpy.run_path(str(path))["main"](words)
    else:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if threads:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        with log.open("w") as file:
            status = subprocess.run(
                [sys.executable, str(path), *words],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
    if status:
        where = f": see {log}" if log else ""
        raise CommandError(f"tools/{tool}.py ended with status {status}{where}", status)


def exit_status(study: str, work: Callable[[], object]) -> int:
    """Do the ``work`` of a study: 0 done, 2 bad input, else the status of a command that failed."""
    try:
        work()
    except CommandError as error:
        status, reason = error.status, str(error)
    except (ValueError, OSError, ImportError) as error:
        status, reason = 2, str(error)
    else:
        return 0
    print(f"{study}: {reason}", file=sys.stderr)
    return status


def train(folder: Path, config: Path, *keys: object, threads: int | None = None) -> None:
    """Train by ``config`` and ``keys`` into ``folder``, unless that is done.

    Raises:
        CommandError: the training failed.
    """
    done = finished(folder)
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--resume", "--config-file", config, *keys, "OUTPUT_DIR", folder]
        start = time.perf_counter()
        run_tool("train_net", *options, log=folder / "console.txt", threads=threads)
        done.write_text(json.dumps(time.perf_counter() - start))


def finished(folder: Path) -> Path:
    """The file that says how long a training took, once it is done."""
    return folder / "seconds.json"


def named_folder(*taken: str) -> Callable[[str], tuple[str, Path]]:
    """An argument's type: NAME=DIR, whose name is none of those ``taken``."""

    def parse(text: str) -> tuple[str, Path]:
        name, _, folder = text.partition("=")
        if not folder or not re.fullmatch(r"[\w.-]*\w[\w.-]*", name) or name in taken:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not NAME=DIR with a NAME of letters, digits, ., _ and - other than "
                f"{', '.join(taken)}"
            )
        return name, Path(folder)

    return parse
