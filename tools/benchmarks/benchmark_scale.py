#!/usr/bin/env python3
"""What a job costs that has very many images: time and memory of its ends, and its files.

    python tools/benchmarks/benchmark_scale.py [--entries 10000 100000] [--against CHECKOUT]

Makes a folder of results of so many images in the formats of tools/make_pseudo_panoptic.py, from
labels of a few procedural scenes under ever new names: four shards that are not joined yet, of
which a few images are damaged, or have no mask. Then measures, each in a process of its own, the
seconds and the peak memory (RSS) of

- watch: ``--status``, which reads the journals of the shards (of a checkout that knows it);
- merge: ``--merge``, which joins the journals and writes COCO files and report;
- resume: the command of the whole job again, which does the damaged images again, and joins;
- again: the same once more, which finds that everything is finished;
- status: ``JobFolder``, what others ask a folder of results;
- dataset: the dicts that a training gets, with ``--dataset``: it looks at each PNG.

``--against`` measures another checkout of this repository in the same way, one after the other,
with what its own code writes. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SCENES, _SIZE = 20, (120, 160)  # of which results are made, height and width in pixels
_SHARDS = 4
_LINKED = 1000  # names a file of an input has: file systems limit them
_ODD = 1000  # of so many images one is damaged, and one has no mask
_DATASET = """
from trace_d2.data.registration import register_trace_panoptic
from detectron2.data import DatasetCatalog
register_trace_panoptic("scale", {output!r}, {images!r})
assert len(DatasetCatalog.get("scale"))
"""
_STATUS = """
from trace_d2.jobs.folder import open_job_folder
job = open_job_folder({output!r})
assert len(job.done) and not job.pending and job.joined
"""


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds on the clock and of the CPUs, MiB of memory at its peak."""

    seconds: float
    cpu: float
    peak: float


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--entries", type=int, nargs="+", default=[10_000, 100_000], metavar="N", help="images"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="of another commit")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where; default: a temporary one"
    )
    parser.add_argument("--dataset", action="store_true", help="time what a training reads, too")
    parser.add_argument("--make", type=int, metavar="N", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.make:
        make_results(args.folder, args.make)
        return 0
    checkouts = {"this": _ROOT, **({"other": args.against} if args.against else {})}
    for count in args.entries:
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                print(f"{count:,} images, {name} checkout", flush=True)
                for line in measure(Path(folder), checkout, count, args.dataset):
                    print(f"  {line}", flush=True)
    return 0


def measure(folder: Path, checkout: Path, count: int, dataset: bool) -> Iterator[str]:
    """A line of each figure."""
    own = [sys.executable, __file__, "--make", str(count), "--folder", str(folder)]
    _run(checkout, own)
    tool = [sys.executable, str(checkout / "tools" / "make_pseudo_panoptic.py")]
    output = folder / "labels"
    paths = {"images": str(folder / "images"), "output": str(output)}
    watched = (checkout / "trace_d2" / "jobs" / "status.py").is_file()
    commands = {
        **({"watch": [*tool, "--status", str(output)]} if watched else {}),
        "merge": [*tool, "--merge", str(output)],
        "resume": [*tool, *job_arguments(folder)],
        "again": [*tool, *job_arguments(folder)],
        "status": [sys.executable, "-c", _STATUS.format(**paths)],
    }
    if dataset:
        commands["dataset"] = [sys.executable, "-c", _DATASET.format(**paths)]
    for name, command in commands.items():
        cost = _run(checkout, command)
        yield f"{name:8} {cost.seconds:6.1f} s ({cost.cpu:.1f} s CPU) {cost.peak:7.0f} MiB"
    sizes = {path.name: path.stat().st_size for path in output.iterdir() if path.is_file()}
    yield ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sorted(sizes.items()))
    fullest = max((len(files), place) for place, _, files in os.walk(output))
    yield f"most files in one folder: {fullest[0]:,} ({Path(fullest[1]).relative_to(output)})"


def job_arguments(folder: Path) -> list[str]:
    """What follows the tool in the command of the whole job."""
    paths = {"images": "images", "semantic": "semantic", "output": "labels"}
    options = [part for name, own in paths.items() for part in (f"--{name}", str(folder / own))]
    categories = str(folder / "scenes" / "categories.json")
    return [*options, "--categories", categories, "--no-edges", "--quiet", "--workers", "1"]


def make_results(folder: Path, count: int) -> None:
    """Write images, masks and results of a job in ``folder``, but for joining its shards."""
    _write_inputs(folder, count)
    from trace_d2.jobs.kinds.panoptic_labels import LabelJob
    from trace_d2.jobs.store import JobStore

    sys.path.insert(0, str(Path(sys.modules["trace_d2"].__file__ or "").parents[1] / "tools"))
    from make_pseudo_panoptic import build_parser

    made = JobStore(folder / "made", LabelJob.layout)
    job = LabelJob.from_args(build_parser().parse_args(job_arguments(folder)))
    store = job.store
    store.open(job.settings)
    store.write_images(job.entries, len(job.entries))
    records = [record for record in made.read_records().values() if record.status == "done"]
    files = {
        pattern: [made.place(pattern, record.stem).read_bytes() for record in records]
        for pattern in LabelJob.layout.patterns
        if made.place(pattern, records[0].stem).is_file()
    }
    lines: list[list[bytes]] = [[] for _ in range(_SHARDS)]
    for rank, entry in enumerate(job.entries):
        record = replace(
            records[rank % len(records)],
            stem=entry.stem,
            file_name=entry.file_name,
            finished=1.7e9 + rank,
            inputs=job.fingerprint(entry),
        )
        if odd := _what_is_odd(rank):
            record = replace(record, status=odd[0], reason=odd[1], facts={})
        else:
            for pattern, contents in files.items():
                if pattern.startswith("previews") and not entry.pictured:
                    continue
                path = store.place(pattern, entry.stem)
                path.write_bytes(contents[rank % len(contents)])
        lines[rank % _SHARDS].append(_encoded(record))
    (store.root / "shards").mkdir()
    for shard, own in enumerate(lines, start=1):
        path = store.root / "shards" / f"journal-{shard}-of-{_SHARDS}.jsonl"
        path.write_bytes(b"".join(own))


def _what_is_odd(rank: int) -> tuple[str, str] | None:
    """Status and reason of images that are not done."""
    if rank % _ODD == 1:
        return "failed", f"no. {rank} cannot be read (its pixels are damaged): repair or replace it"
    if rank % _ODD == 2:
        return "skipped", f"no semantic mask of {rank} (an image without tags?)"
    return None


def _encoded(record: object) -> bytes:
    from trace_d2.jobs.journal import encode_record

    return encode_record(record)  # type: ignore[arg-type]


def _write_inputs(folder: Path, count: int) -> None:
    """Scenes, their labels, and images and masks that are links to those of the scenes."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    scenes = folder / "scenes"
    write_scenes(scenes, _SCENES, SceneSettings(size=_SIZE))
    tool = Path(sys.modules["trace_d2"].__file__ or "").parents[1] / "tools/make_pseudo_panoptic.py"
    command: list[str | Path] = [
        *(sys.executable, tool, "--images", scenes / "images", "--semantic", scenes / "semantic"),
        *("--categories", scenes / "categories.json", "--edges", scenes / "edges_oracle"),
        *("--output", folder / "made", "--quiet", "--workers", "1"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in ("images", "semantic"):
        (folder / name).mkdir()
        sources = sorted((scenes / name).iterdir())
        for rank in range(count):
            odd = _what_is_odd(rank)
            if odd and odd[0] == "skipped" and name == "semantic":
                continue
            target = folder / name / f"{rank:012d}.png"
            if odd and odd[0] == "failed" and name == "images":
                target.write_bytes(b"damaged")
                continue
            source = sources[rank % _SCENES]
            origin = folder / "scenes" / f"{name}-{rank % _SCENES}-{rank // _LINKED // _SCENES}.png"
            if not origin.exists():
                shutil.copy(source, origin)
            os.link(origin, target)


def _run(checkout: Path, command: list[str]) -> Cost:
    """Run ``command`` with the package of ``checkout``."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, 3):  # 3: some images failed
            said.seek(0)
            raise RuntimeError(f"{command} ended with status {code}: {said.read().decode()}")
    seconds = time.perf_counter() - start
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
