#!/usr/bin/env python3
"""Put jobs through kills, wild clocks, second writers and bad disks: no result lost or different.

    python tools/studies/soak.py --kills 100 --seed 0 --json soak.json

Small jobs of labels and refined masks, whole, by two workers and by shards, are killed at random
moments (from the start to the report page, the merge of shards included) and continued until they
are done. All their files must then be what an undisturbed run writes, byte for byte but for times.
Then one scene after the other: clocks that jump, two writers at once, a full disk, a read-only
output, links in it, a file system without locks. Each must end in the same bytes, or in a refusal
before anything was changed. Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(Path(__file__).parent)]

from trace_d2.jobs.arguments import count  # noqa: E402
from trace_d2.terminal import say  # noqa: E402

KINDS = ("labels", "masks")

if TYPE_CHECKING:
    from soaking.jobs import Command, SmallJob
    from soaking.processes import Ended, Process

Prepare = Callable[[], None] | None
_MOST_KILLS = 3  # of one command before it may end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; returns the exit status: 0, or 1 where a result was lost or different."""
    args = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trace_d2-soak-", dir=args.scratch) as scratch:
        soak = Soak(Path(scratch), args.images, args.seed, args.kinds)
        soak.kill(args.kills)
        soak.play(args.scenes)
    summary = soak.summary()
    say(json.dumps(summary, indent=1))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if soak.faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kills", type=int, default=100, metavar="N", help="default: 100")
    add("--images", type=count, default=40, metavar="N", help="of each job; default: 40")
    add("--seed", type=int, default=0, help="of images and moments")
    add("--scenes", nargs="*", metavar="NAME", help="play these alone; without any: none")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of jobs; default: both")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--scratch", type=Path, metavar="DIR", help="where to work; default: the system's")
    return parser


class Soak:
    """The jobs, what undisturbed runs of them write, and what went wrong since.

    Args:
        root: an empty folder.
        images: how many each job has.
        seed: of images and moments.
        kinds: of jobs.
    """

    def __init__(self, root: Path, images: int, seed: int, kinds: Sequence[str]) -> None:
        import numpy as np
        from soaking.jobs import results, small_jobs, write_inputs
        from soaking.processes import warm_up

        self.root = root
        self.rng = np.random.default_rng(seed)
        self.faults: list[str] = []
        self.kills: Counter[str] = Counter()
        self.jobs_killed: Counter[str] = Counter()
        self.scenes: dict[str, str] = {}
        write_inputs(root / "in", images, seed)
        self.kinds = kinds
        self.jobs = small_jobs(root / "in", kinds)
        warm_up()
        # Of each job by name: the files, and when each phase of each step began.
        self.expected: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, list[dict[str, float]]] = {}
        for job in self.jobs.values():
            output = self.new_output(job)
            self.seconds[job.name] = [self.run(step, output).seconds for step in job.steps]
            self.expected[job.name] = results(output.parent)

    def new_output(self, job: SmallJob) -> Path:
        """The output of ``job`` in a new folder of its own."""
        shutil.rmtree(self.root / "outputs", ignore_errors=True)
        (self.root / "outputs").mkdir()
        return self.root / "outputs" / job.output

    def start(
        self, step: Command, output: Path, prepare: Prepare = None, log: str = "said.txt"
    ) -> Process:
        """``step`` on ``output`` in a process of its own, ``prepare`` called there first."""
        from soaking.processes import Process

        return Process(step, output, self.root / log, prepare)

    def run(self, step: Command, output: Path, prepare: Prepare = None, status: int = 0) -> Ended:
        """The same, until its end; another exit status than ``status`` is a fault."""
        ended = self.start(step, output, prepare).wait()
        if ended.status != status:
            self.faults.append(f"{step.on(output)}: status {ended.status}: {ended.said[-2000:]}")
        return ended

    def compare(self, job: SmallJob, output: Path, what: str) -> None:
        """Files that are not as those of an undisturbed run are a fault of ``what``."""
        from soaking.jobs import results

        self.compare_files(results(output.parent), self.expected[job.name], what)

    def compare_files(self, found: dict[str, bytes], expected: dict[str, bytes], what: str) -> None:
        """Files ``found`` that are not as ``expected`` are a fault of ``what``."""
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                kind = "lost" if name not in found else "left" if name not in expected else "other"
                self.faults.append(f"{what}: {kind}: {name}")

    def kill(self, kills: int) -> None:
        """Kill jobs ``kills`` times, one job after the other, and compare what they write."""
        while sum(self.kills.values()) < kills:
            for job in self.jobs.values():
                if sum(self.kills.values()) < kills:
                    self._kill_one(job, kills)

    def _kill_one(self, job: SmallJob, kills: int) -> None:
        from soaking.processes import random_moment

        output = self.new_output(job)
        before = len(self.faults)
        for step, seconds in zip(job.steps, self.seconds[job.name], strict=True):
            for _ in range(int(self.rng.integers(1, _MOST_KILLS + 1))):
                moment, delay = random_moment(self.rng, seconds)
                everything = bool(self.rng.integers(2))
                ended = self.start(step, output).kill_at(moment, delay, everything)
                if ended.status is None:
                    self.kills[ended.phase] += 1
                    self.jobs_killed[job.name] += 1
                elif ended.status:
                    self.faults.append(f"{job.name}: status {ended.status}: {ended.said[-2000:]}")
            self.run(step, output)
        self.compare(job, output, f"{job.name}, killed")
        done = sum(self.kills.values())
        verdict = "as before" if len(self.faults) == before else "DIFFERENT"
        say(f"{done:4} of {kills} kills: {job.name}: {verdict}")

    def play(self, names: Sequence[str] | None) -> None:
        """Play the scenes of these names, or all, on every job."""
        from soaking.scenes import SCENES

        for name in SCENES if names is None else names:
            before = len(self.faults)
            outcome = SCENES[name](self)
            self.scenes[name] = outcome if len(self.faults) == before else "FAULT"
            say(f"{name}: {self.scenes[name]}")

    def summary(self) -> dict[str, Any]:
        """The figures."""
        return {
            "kills": sum(self.kills.values()),
            "kills by phase": dict(self.kills),
            "kills by job": dict(self.jobs_killed),
            "scenes": self.scenes,
            "faults": self.faults,
        }


if __name__ == "__main__":
    sys.exit(main())
