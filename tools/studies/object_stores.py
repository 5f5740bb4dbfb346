#!/usr/bin/env python3
"""Images from an S3 server and labels to it, while processes are killed: none lost or different.

    python tools/studies/object_stores.py --images 200 --json object_stores.json

A server (moto, of this machine) holds photographs, semantic masks and edges. Labels of them are
made on the disk from files; then from the server and to it, by one process, by two workers of which
one is killed by kill -9 in the middle, and by two shards, likewise. The same commands continue, and
all labels, notes and joined files must be those on the disk, byte for byte. Exit status 1 if not.
Needs `pip install 'trace_d2[s3]' 'moto[server]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from trace_d2.jobs.arguments import count  # noqa: E402
from trace_d2.terminal import say  # noqa: E402

_TOOL = ROOT / "tools/make_pseudo_panoptic.py"
_BUCKET = "study"
_WAY = ("settings.json", "report.html", "journal.jsonl")  # which name the place of the images
_PATIENCE = 300.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status: 0, or 1 where a result was lost or different."""
    args = _parser().parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="trace_d2-study-", dir=args.scratch) as scratch,
        _server(Path(scratch)) as environ,
    ):
        study = Study(Path(scratch), args.images, environ)
        for name in args.scenes:
            study.play(name)
    say(json.dumps(study.figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(study.figures, indent=1) + "\n")
    return 1 if any(one["lost"] or one["different"] for one in study.scenes.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=count, default=200, metavar="N", help="default: 200")
    add("--scenes", nargs="+", choices=_SCENES, default=list(_SCENES), help="default: all")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--scratch", type=Path, metavar="DIR", help="where to work; default: the system's")
    return parser


@contextlib.contextmanager
def _server(scratch: Path) -> Iterator[dict[str, str]]:
    """The environment of processes that use an S3 server, which runs meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with open(scratch / "server.txt", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server: {(scratch / 'server.txt').read_text()}")
            time.sleep(0.1)
        yield {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "study",
            "AWS_SECRET_ACCESS_KEY": "study",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
    finally:
        server.kill()
        server.wait()


class Study:
    """Inputs on the disk and in the store, what labels of them are, and what came out.

    Args:
        root: an empty folder.
        images: how many there are.
        environ: leads to the server.
    """

    def __init__(self, root: Path, images: int, environ: dict[str, str]) -> None:
        import boto3
        from soaking.jobs import results, write_inputs

        self.root, self.environ, self.images = root, environ, images
        self.scenes: dict[str, dict[str, Any]] = {}
        self.client = boto3.client(
            "s3",
            endpoint_url=environ["AWS_ENDPOINT_URL"],
            aws_access_key_id="study",
            aws_secret_access_key="study",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=_BUCKET)
        write_inputs(root / "in", images, seed=0)
        for path in (root / "in").rglob("*.png"):
            name = path.relative_to(root).as_posix()
            self.client.put_object(Bucket=_BUCKET, Key=name, Body=path.read_bytes())
        begun = time.perf_counter()
        self.finish(self.start(root / "in", root / "out", "--workers", "1"))
        self.seconds = time.perf_counter() - begun
        self.expected = results(root / "out")

    @property
    def figures(self) -> dict[str, Any]:
        """All that was found."""
        return {"images": self.images, "seconds on the disk": round(self.seconds, 1), **self.scenes}

    def play(self, name: str) -> None:
        """Play the scene of this name, and compare what it leaves in the store."""
        output, begun = f"s3://{_BUCKET}/{name}", time.perf_counter()
        told = _SCENES[name](self, output)
        seconds = round(time.perf_counter() - begun, 1)
        found = self.results(name)
        lost = sorted(self.expected.keys() - found.keys())
        different = sorted(key for key in found if found[key] != self.expected.get(key))
        different = [key for key in different if key not in _WAY]
        labels = sum(key.startswith("panoptic/") for key in found)
        self.scenes[name] = {"seconds": seconds, "labels": labels, **told}
        self.scenes[name] |= {"lost": lost, "different": different}
        say(f"{name}: {len(lost)} lost, {len(different)} different, {seconds:.0f} s")

    def start(self, place: object, output: object, *more: str) -> subprocess.Popen[str]:
        """The command that makes labels of what is below ``place``, in a process group."""
        given = [f"--{name}={place}/{name}" for name in ("images", "semantic", "edges")]
        categories = f"--categories={self.root}/in/categories.json"
        return self._process(*given, categories, f"--output={output}", "--quiet", *more)

    def start_in_store(self, output: str, *more: str) -> subprocess.Popen[str]:
        """The same, of the images in the store."""
        return self.start(f"s3://{_BUCKET}/in", output, *more)

    def merge(self, output: str) -> None:
        """Join what shards made."""
        self.finish(self._process("--merge", output))

    def _process(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(_TOOL), *words],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """Wait until ``process`` ends, as it should; returns what it said."""
        said, _ = process.communicate(timeout=_PATIENCE)
        if process.returncode != status:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {said}")
        return said

    def wait_for(self, output: str, labels: int, *processes: subprocess.Popen[str]) -> None:
        """Wait until so many labels are in the store, while ``processes`` make them."""
        while len(self.names(f"{output.rpartition('/')[2]}/panoptic/")) < labels:
            for process in processes:
                if process.poll() is not None:
                    raise RuntimeError(f"it ended before: {process.communicate()[0]}")
            time.sleep(0.02)

    def names(self, below: str) -> list[str]:
        """The objects below a folder."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=below)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def results(self, name: str) -> dict[str, bytes]:
        """What lies in a folder of the store, by name."""
        from soaking.jobs import results

        for key in self.names(f"{name}/"):
            path = self.root / "found" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.client.get_object(Bucket=_BUCKET, Key=key)["Body"].read())
        return results(self.root / "found" / name)


def _undisturbed(study: Study, output: str) -> dict[str, Any]:
    study.finish(study.start_in_store(output, "--workers", "1"))
    return {}


def _worker_killed(study: Study, output: str) -> dict[str, Any]:
    """One of two workers is killed: the job stops, and the same command continues."""
    process = study.start_in_store(output, "--workers", "2")
    study.wait_for(output, study.images // 2, process)
    os.kill(_workers_of(process.pid)[0], signal.SIGKILL)
    study.finish(process, status=1)
    said = study.finish(study.start_in_store(output, "--workers", "2"))
    return {"continued": _counts(said)}


def _shard_killed(study: Study, output: str) -> dict[str, Any]:
    """One of two shards is killed, with all its processes; the other goes on."""
    shards = [
        study.start_in_store(output, "--workers", "1", "--shard", f"{index}/2") for index in (1, 2)
    ]
    study.wait_for(output, study.images // 2, *shards)
    os.killpg(shards[0].pid, signal.SIGKILL)
    study.finish(shards[0], status=-signal.SIGKILL)
    study.finish(shards[1])
    said = study.finish(study.start_in_store(output, "--workers", "1", "--shard", "1/2"))
    study.merge(output)
    return {"continued": _counts(said)}


def _workers_of(pid: int) -> list[int]:
    """Worker processes of ``pid``, by what Linux tells."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _counts(said: str) -> str:
    return next(line for line in said.splitlines() if "of them before" in line)


_SCENES: dict[str, Callable[[Study, str], dict[str, Any]]] = {
    "undisturbed": _undisturbed,
    "worker-killed": _worker_killed,
    "shard-killed": _shard_killed,
}


if __name__ == "__main__":
    sys.exit(main())
