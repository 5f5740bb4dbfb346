#!/usr/bin/env python3
"""Install Detectron2, which no package index carries under its own name.

In this order, and saying which one it was:

1. Detectron2 is importable already: nothing is done.
2. Its git repository, at a pinned commit.
3. Where git or the repository cannot be reached: the copy of release 0.6 on the package index,
   checked by its hash and adapted to today's NumPy and Pillow.

Both are installed as a wheel named ``detectron2`` of the Python files alone: no compiler is needed.
The compiled operators (deformable convolution, rotated boxes, the fast COCO evaluation) say so when
used. Whoever needs them installs Detectron2 by its own instructions first, and this script then
finds it. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2_wheel import (
    HOMEPAGE,
    MISSING_OPERATORS,
    PATCHES,
    REQUIREMENTS,
    InstallError,
    apply_patches,
    build_wheel,
    check_sha256,
    read_package,
)

GIT_URL = HOMEPAGE
GIT_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
GIT_VERSION = f"0.6+git{GIT_COMMIT[:8]}"
INDEX_COPY = "pb1-detectron2==0.6"
INDEX_COPY_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
INDEX_COPY_VERSION = "0.6+patched"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"

# Seconds. An unreachable repository must not hold the set-up back.
PROBE_TIMEOUT = 10.0
FETCH_TIMEOUT = 300.0
INSTALL_TIMEOUT = 1800.0


class SourceUnavailableError(InstallError):
    """The source could not be fetched; another one may do."""


class Target(NamedTuple):
    """The environment to install into."""

    python: str
    install: tuple[str, ...]  # the command up to the names of packages
    reinstall: str  # its option that replaces an installed package

    @staticmethod
    def of(python: str) -> Target:
        """Inspect the environment of the interpreter ``python``.

        Raises:
            InstallError: it does not run, or lacks PyTorch or any installer.
        """
        code = (
            "import importlib.util as u, json;"
            "print(json.dumps({m: u.find_spec(m) is not None for m in ('torch', 'uv', 'pip')}))"
        )
        try:
            has = json.loads(run([python, "-c", code], PROBE_TIMEOUT * 6))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise InstallError(f"{python} does not run: {describe(error)}") from error
        if not has["torch"]:
            raise InstallError(f"{python} has no PyTorch: install torch and torchvision first")
        constraints = ("-c", str(CONSTRAINTS)) if CONSTRAINTS.is_file() else ()
        uv = (python, "-m", "uv") if has["uv"] else (shutil.which("uv") or "",)
        if has["uv"] or (uv[0] and not has["pip"]):
            index = index_options(python)[0]  # uv does not read pip's configuration
            command = (*uv, "pip", "install", "--quiet", "--python", python, *constraints, *index)
            return Target(python, command, "--reinstall")
        if has["pip"]:
            command = (python, "-m", "pip", "install", "--quiet", *constraints)
            return Target(python, command, "--force-reinstall")
        raise InstallError(f"{python} has neither pip nor uv: run `{python} -m ensurepip`")


def run(command: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> str:
    """Run a command without a terminal and return its standard output.

    Raises:
        OSError, subprocess.SubprocessError: it could not be started, failed, or took longer than
            ``timeout`` seconds.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **(env or {})}
    done = subprocess.run(
        list(command),
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def describe(error: Exception) -> str:
    """Return the cause that a failed command left, at most its last five lines."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return "\n".join(lines[-5:]) or f"exit status {error.returncode}"
    return str(error)


def installed_version(python: str) -> tuple[str | None, str]:
    """Import Detectron2 as the plugin does.

    Returns:
        its version, or None if it cannot be imported; and where it lies, or why it cannot.
    """
    code = (
        "import detectron2, detectron2.model_zoo, detectron2.data, detectron2.evaluation\n"
        "import detectron2.projects.point_rend\n"
        "print(detectron2.__version__, detectron2.__path__[0], sep='\\n')"
    )
    try:
        output = run([python, "-W", "ignore", "-c", code], INSTALL_TIMEOUT)
    except subprocess.SubprocessError as error:
        return None, describe(error)
    version, path = output.strip().splitlines()[-2:]
    return version, path


def fetch_git(folder: Path) -> Path:
    """Fetch the pinned commit of the git repository, and return it as a tar file in ``folder``.

    Raises:
        SourceUnavailableError: git is missing, or the repository cannot be reached or read in time.
    """
    if shutil.which("git") is None:
        raise SourceUnavailableError("git is not installed")
    repository, archive = folder / "repository", folder / "git.tar"
    git = ["git", "-C", str(repository)]
    try:
        run(["git", "ls-remote", GIT_URL, "HEAD"], PROBE_TIMEOUT)
        run(["git", "init", "--quiet", str(repository)], PROBE_TIMEOUT)
        run([*git, "fetch", "--quiet", "--depth=1", GIT_URL, GIT_COMMIT], FETCH_TIMEOUT)
        run([*git, "archive", f"--output={archive}", GIT_COMMIT], FETCH_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceUnavailableError(f"{GIT_URL} cannot be read: {describe(error)}") from error
    return archive


def parse_pip_config(listing: str) -> dict[str, list[str]]:
    """Return the URLs that `pip config list` shows, by key: index-url, extra-index-url, find-links.

    A variable of the environment (``:env:``) wins over a file.
    """
    found: dict[str, list[str]] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        match = re.match(r"[^=]*\.(index-url|extra-index-url|find-links)=(['\"].*)$", line)
        if match:
            found[match[1]] = ast.literal_eval(match[2]).split()
    return found


def index_options(python: str) -> list[list[str]]:
    """Return the options that send unearth to the user's own indexes, one list an attempt."""
    try:
        config = parse_pip_config(run([python, "-m", "pip", "config", "list"], PROBE_TIMEOUT * 6))
    except (OSError, subprocess.SubprocessError):
        config = {}  # an environment of uv alone has no pip to ask
    main = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    mains = [main] if main else config.get("index-url", [])
    attempts = [["-i", url] for url in mains] or [[]]  # no option: the tool's own default
    attempts += [["-i", url] for url in config.get("extra-index-url", [])]
    attempts += [["-f", place] for place in config.get("find-links", [])]
    return attempts


def fetch_index_copy(folder: Path, target: Target) -> Path:
    """Fetch the package index's copy of release 0.6 into ``folder`` and check its hash.

    pip and uv refuse this archive, for an optional dependency of its names a URL; so unearth, put
    in a folder of its own, does the fetching.

    Raises:
        SourceUnavailableError: no index has it.
        InstallError: the archive is not the one this script was written for.
    """
    tool = folder / "unearth"
    try:
        run([*target.install, "--target", str(tool), "unearth"], FETCH_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceUnavailableError(f"unearth cannot be installed: {describe(error)}") from error
    reasons = []
    for options in index_options(target.python):
        command = [target.python, "-m", "unearth", "--no-binary", "--download", str(folder)]
        try:
            run([*command, *options, INDEX_COPY], FETCH_TIMEOUT, {"PYTHONPATH": str(tool)})
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(describe(error))
        archives = sorted(folder.glob("*.tar.gz"))
        if archives:
            check_sha256(archives[0], INDEX_COPY_SHA256)
            return archives[0]
    raise SourceUnavailableError(f"no package index gave {INDEX_COPY}: {'; '.join(reasons)}")


def make_wheel(source: str, folder: Path, target: Target) -> Path:
    """Fetch ``source`` ("git" or "pypi") and return the wheel made of it, in ``folder``."""
    if source == "git":
        return build_wheel(read_package(fetch_git(folder)), GIT_VERSION, folder)
    files = apply_patches(read_package(fetch_index_copy(folder, target)), PATCHES)
    files["detectron2/_C.py"] = MISSING_OPERATORS.encode("utf-8")
    return build_wheel(files, INDEX_COPY_VERSION, folder)


def install(source: str, target: Target) -> str:
    """Install Detectron2 from ``source`` ("auto", "git" or "pypi") and return which one it was.

    Raises:
        InstallError: the source, the installer or the import at the end failed.
    """
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        used = "git" if source == "auto" else source
        try:
            wheel = make_wheel(used, folder, target)
        except SourceUnavailableError as error:
            if source != "auto":
                raise
            print(f"{error}\nTaking the package index's copy of release 0.6 instead.", flush=True)
            used = "pypi"
            wheel = make_wheel(used, folder, target)
        try:
            run([*target.install, *REQUIREMENTS], INSTALL_TIMEOUT)
            run([*target.install, "--no-deps", target.reinstall, str(wheel)], INSTALL_TIMEOUT)
        except subprocess.SubprocessError as error:
            raise InstallError(f"the installation failed: {describe(error)}") from error
    version, detail = installed_version(target.python)
    if version is None:
        raise InstallError(f"Detectron2 was installed but cannot be imported: {detail}")
    return used


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Install Detectron2: nothing if it is importable, else from its git "
        "repository, else from the package index's copy of release 0.6."
    )
    parser.add_argument("--source", choices=("auto", "git", "pypi"), default="auto")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of the environment (default: this)"
    )
    options = parser.parse_args(arguments)
    try:
        target = Target.of(options.python)
        version, detail = installed_version(target.python)
        if version is not None:
            print(f"Detectron2 {version} is importable already ({detail}): nothing to do.")
            return 0
        used = install(options.source, target)
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    origin = {
        "git": f"its git repository at commit {GIT_COMMIT}",
        "pypi": f"the package index's copy {INDEX_COPY}, hash checked, {len(PATCHES)} patches",
    }
    print(f"Detectron2 installed from {origin[used]}; Python files only, no compiled operators.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
