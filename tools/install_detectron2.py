#!/usr/bin/env python3
"""Install Detectron2, which no package index carries under its own name.

In this order, and saying which one it was:

1. Detectron2 is importable already: nothing is done.
2. Its git repository, at a pinned commit.
3. Where git or the repository cannot be reached: the copy of release 0.6 on the package index,
   checked by its hash and adapted to today's NumPy and Pillow.

Both are installed as a wheel named ``detectron2`` of the Python files alone: no compiler is needed.
The compiled operators (deformable convolution, rotated boxes, the fast COCO evaluation) say so when
used; whoever needs them installs Detectron2 by its own instructions first.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

GIT_URL = "https://github.com/facebookresearch/detectron2"
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

# Upstream's list without black, which only pretty-prints saved configs, and without the packages of
# the former Caffe2 export. setup.py's extra "detectron2" repeats it.
REQUIREMENTS = (
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "matplotlib",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pillow>=7.1",
    "pycocotools>=2.0.2",
    "setuptools<81",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)

# Where the files of a source archive lie in the wheel.
PLACES = {
    "detectron2/": "detectron2/",
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
    "configs/": "detectron2/model_zoo/configs/",
}

# What release 0.6 has to become, in every file; as whole words.
PATCHES = {
    # NumPy 1.24 removed its aliases of Python's own types.
    "np.int": "int",
    "np.bool": "bool",
    "np.float": "float",
    # Pillow 10 removed the old name.
    "Image.LINEAR": "Image.BILINEAR",
    # Python 3.11 samples sequences only: without this a single bad record ends training.
    "self._rng.sample(self._fallback_candidates, k=1)": (
        "self._rng.sample(list(self._fallback_candidates), k=1)"
    ),
    # The default of COCOEvaluator is the compiled evaluation; fall back as upstream does now.
    "from detectron2.evaluation.fast_eval_api import COCOeval_opt": "COCOeval_opt = COCOeval",
}

MISSING_OPERATORS = '''\
"""Stands in for the compiled operators, which this installation of Detectron2 lacks."""


def get_compiler_version():
    return "none (Python files only)"


get_cuda_version = get_compiler_version


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name} is a compiled operator, and this Detectron2 was installed without "
        "them. Build Detectron2 from its git repository with a C++ compiler: "
        "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    )
'''


class InstallError(RuntimeError):
    """Something the user can mend; the message says how."""


class SourceUnavailableError(InstallError):
    """The source could not be fetched; another one may do."""


class Target(NamedTuple):
    """The environment to install into."""

    python: str
    install: tuple[str, ...]  # the command up to the names of packages
    reinstall: str  # its option that replaces an installed package

    @staticmethod
    def of(python: str) -> Target:
        """Inspect the environment of the interpreter ``python``; InstallError: what it lacks."""
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
    """Run a command without a terminal, for ``timeout`` seconds at most; return what it prints."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **(env or {})}
    pipes: Any = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.check_output(command, text=True, timeout=timeout, env=environment, **pipes)


def describe(error: Exception) -> str:
    """Return the cause that a failed command left, at most its last five lines."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return "\n".join(lines[-5:]) or f"exit status {error.returncode}"
    return str(error)


def installed_version(python: str) -> tuple[str | None, str]:
    """Return the version of Detectron2 and its place, or None and why it cannot be imported."""
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
    """Fetch the pinned commit of the git repository, and return it as a tar file in ``folder``."""
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


def check_sha256(path: Path, expected: str) -> None:
    """Raise InstallError unless the file has the expected SHA-256 (hexadecimal)."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise InstallError(
            f"{path.name} has SHA-256 {actual}, not {expected}: it was not installed. "
            "Use another package index, or --source git"
        )


def fetch_index_copy(folder: Path, target: Target) -> Path:
    """Fetch the package index's copy of release 0.6 into ``folder`` and check its hash."""
    # pip and uv refuse this archive, for an optional dependency of its names a URL.
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


def read_package(archive: Path) -> dict[str, bytes]:
    """Return the files of a source archive that belong in the wheel, by their path in it."""
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("pb1-detectron2-0.6/")
            if path.startswith("/") or ".." in path.split("/") or re.search(r"[\\\r\n:]", path):
                reason = f"{archive.name} holds a file named {path!r}, out of its folder"
                raise InstallError(f"{reason}: use another package index, or --source git")
            for source, place in {**PLACES, "LICENSE": "LICENSE"}.items():
                wanted = path.startswith(source) and path.endswith((".py", ".yaml", "LICENSE"))
                if wanted and (stream := tar.extractfile(member)) is not None:
                    files[place + path.removeprefix(source)] = stream.read()
    for needed in ("detectron2/__init__.py", "detectron2/projects/point_rend/__init__.py"):
        if needed not in files:
            raise InstallError(f"{archive.name} is no Detectron2: it lacks {needed}")
    return files


def apply_patches(files: Mapping[str, bytes], patches: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files with every patch made, each patched file saying so at its end."""
    patched = dict(files)
    for old, new in patches.items():
        pattern = re.compile(rf"(?<![\w.]){re.escape(old)}(?!\w)".encode())
        found = [path for path, data in patched.items() if pattern.search(data)]
        if not found:
            raise InstallError(
                f"{old!r} was found nowhere. This is another source than the patches were made "
                "for; use --source git"
            )
        note = f"# Changed by trace_d2's tools/install_detectron2.py: {old} -> {new}\n"
        for path in found:
            patched[path] = pattern.sub(new.encode(), patched[path]) + note.encode()
    return patched


def build_wheel(files: Mapping[str, bytes], version: str, folder: Path) -> Path:
    """Write a wheel named detectron2 with full metadata into ``folder`` and return its path."""
    info = f"detectron2-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {version}",
        "Summary: Platform for object detection and segmentation (Python files only)",
        f"Home-page: {GIT_URL}",
        "Author: FAIR",
        "License: Apache-2.0",
        "Requires-Python: >=3.10",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS),
    ]
    kind = ["Wheel-Version: 1.0", "Generator: trace_d2 (1.0)", "Root-Is-Purelib: true"]
    content = {path: data for path, data in files.items() if path != "LICENSE"}
    content[f"{info}/licenses/LICENSE"] = files["LICENSE"]
    content[f"{info}/METADATA"] = _lines(metadata)
    content[f"{info}/WHEEL"] = _lines([*kind, "Tag: py3-none-any"])
    record = [f"{path},{_digest(data)},{len(data)}" for path, data in sorted(content.items())]
    content[f"{info}/RECORD"] = _lines([*record, f"{info}/RECORD,,"])
    wheel = folder / f"detectron2-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in sorted(content.items()):
            archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
    return wheel


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _digest(data: bytes) -> str:
    encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={encoded.rstrip(b'=').decode()}"


def make_wheel(source: str, folder: Path, target: Target) -> Path:
    """Fetch ``source`` ("git" or "pypi") and return the wheel made of it, in ``folder``."""
    if source == "git":
        return build_wheel(read_package(fetch_git(folder)), GIT_VERSION, folder)
    files = apply_patches(read_package(fetch_index_copy(folder, target)), PATCHES)
    files["detectron2/_C.py"] = MISSING_OPERATORS.encode("utf-8")
    return build_wheel(files, INDEX_COPY_VERSION, folder)


def install(source: str, target: Target) -> str:
    """Install Detectron2 from ``source`` ("auto", "git" or "pypi") and return which one it was."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        used = "git" if source == "auto" else source
        try:
            wheel = make_wheel(used, Path(name), target)
        except SourceUnavailableError as error:
            if source != "auto":
                raise
            print(f"{error}\nTaking the package index's copy of release 0.6 instead.", flush=True)
            used = "pypi"
            wheel = make_wheel(used, Path(name), target)
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
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=("auto", "git", "pypi"), default="auto")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of the environment (default: this)"
    )
    options = parser.parse_args(arguments)
    try:
        target = Target.of(options.python)
        version, place = installed_version(target.python)
        if version is not None:
            print(f"Detectron2 {version} is importable already ({place}): nothing to do.")
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
