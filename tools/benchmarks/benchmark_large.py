#!/usr/bin/env python3
"""What images of very many pixels cost: peak memory and time of a whole tool, its workers included.

    python tools/benchmarks/benchmark_large.py [--size 8000x6000] [--images 2] [--workers 2]
        [--tool labels masks semantic] [--edges files|none|SOURCE] [--against CHECKOUT]
        [KEY VALUE ...]

Draws still lifes with the noise of a camera, masks of their classes, and edges such as a detector
gives: soft, with gaps, and false ones where the truth has none, 16 bit. Then runs

- labels: tools/make_pseudo_panoptic.py on the masks of classes;
- masks: tools/refine_masks.py on masks of everything of a class, RLE;
- semantic: tools/refine_semantic.py on the masks of classes;

with these edges, none, or those of a source of ``MODEL.TRACE.EDGES`` (``student`` is the one of
trace-tiny). The peak is that of the process and all that it starts: the proportional share of
memory (PSS), added up every 20 ms. ``--against`` runs the tools of another checkout on the same
files, and says whether the results are the same, byte for byte. Linux only; nothing is asserted.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_EVERY = 0.02  # seconds
_RESULTS = ("panoptic/*.png", "semantic/*.png", "panoptic.json", "instances.json")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=_size, default="8000x6000", metavar="WxH", help="pixels")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="how many")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], metavar="N")
    parser.add_argument("--tool", nargs="+", choices=_TOOLS, default=list(_TOOLS))
    parser.add_argument("--edges", default="files", help="files, none, or a source")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="of another commit")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep everything there")
    parser.add_argument("keys", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "masks.json").is_file():
            from large_images import draw  # --help loads nothing

            draw(folder, args.images, args.size)
        for tool in args.tool:
            for workers in args.workers:
                _compare(folder, tool, workers, args)
    return 0


def _compare(folder: Path, tool: str, workers: int, args: argparse.Namespace) -> None:
    """Print a line for each checkout."""
    checkouts = {"this": _ROOT, **({"other": args.against} if args.against else {})}
    outputs = []
    for name, checkout in checkouts.items():
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{tool}-{name}-") as made:
            pass
        outputs.append(Path(made))
        command = _command(folder, tool, args.edges, checkout, Path(made))
        command += ["--workers", str(workers), *args.keys]
        seconds, peak, processes = _run(command, checkout)
        print(
            f"{tool:7} {name:6} {workers} workers, edges {args.edges}: peak {peak / 2**30:.2f} GiB "
            f"({peak / 1e9:.2f} GB) in {processes} processes, {seconds:.1f} s",
            flush=True,
        )
    if len(outputs) == 2:
        print(f"{tool:7} results are {'the same' if _same(*outputs) else 'DIFFERENT'}", flush=True)


def _command(folder: Path, tool: str, edges: str, checkout: Path, output: Path) -> list[str]:
    script, options = _TOOLS[tool]
    command = [sys.executable, str(checkout / "tools" / script), *options]
    command = [part.format(folder=folder, output=output) for part in command]
    command += ["--config-file", str(checkout / "configs/edges/trace_tiny.yaml"), "--quiet"]
    if edges == "files":
        return [*command, "--edges", str(folder / "edges")]
    return [*command, *(["--no-edges"] if edges == "none" else ["MODEL.TRACE.EDGES.SOURCE", edges])]


_INPUTS = ["--images", "{folder}/images", "--output"]
_CLASSES = ["--semantic", "{folder}/semantic", "--categories", "{folder}/categories.json"]
_TOOLS = {
    "labels": ("make_pseudo_panoptic.py", [*_INPUTS, "{output}", *_CLASSES]),
    "semantic": ("refine_semantic.py", [*_INPUTS, "{output}", *_CLASSES]),
    "masks": ("refine_masks.py", [*_INPUTS, "{output}/refined.json", "--masks",
                                  "{folder}/masks.json"]),
}  # fmt: skip


def _run(command: Sequence[str], checkout: Path) -> tuple[float, int, int]:
    """Seconds, the most bytes of the process and all below it, and how many these were.

    They have the package of ``checkout``.
    """
    from measuring import tree_memory

    start, peak, most = time.perf_counter(), 0, 0
    with tempfile.TemporaryFile() as said:
        environ = {**os.environ, "PYTHONPATH": str(checkout)}
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            used, count = tree_memory(process.pid)
            peak, most = max(peak, used), max(most, count)
            time.sleep(_EVERY)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command} ended with {process.returncode}: {said.read().decode()}")
    return time.perf_counter() - start, peak, most


def _same(one: Path, other: Path) -> bool:
    found = [path for name in (*_RESULTS, "refined.json") for path in one.glob(name)]
    return bool(found) and all(
        filecmp.cmp(path, other / path.relative_to(one), shallow=False) for path in found
    )


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


if __name__ == "__main__":
    sys.exit(main())
