"""Which actors a command line asks for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from trace_d2.complaints import Complaints
from trace_d2.devices import VISIBLE, visible_gpus
from trace_d2.jobs.actors import Actors
from trace_d2.jobs.arguments import HERE, RAY, NotAsked
from trace_d2.jobs.job import AnyJob, UsageError
from trace_d2.jobs.local_actors import LocalActors
from trace_d2.jobs.ray_actors import RayActors
from trace_d2.terminal import say


def asked_actors(job: AnyJob, args: argparse.Namespace) -> Callable[[], Actors] | None:
    """What starts the actors that ``args`` of a ``job_parser`` ask for; None: it asks for none.

    Raises:
        UsageError: there are not so many GPUs, or the job has no use for them.
    """
    asked = getattr(args, "num_gpus", None)
    if getattr(args, "executor", HERE) == RAY:
        return _on_ray(job, args, asked)
    if getattr(args, "address", None) is not None:
        raise UsageError(f"--address {args.address} is of a cluster of Ray: give --executor ray")
    if asked is None:
        return None
    if not job.looks:
        raise UsageError(
            f"--num-gpus is {asked}, but no model looks at the images of this job: leave it out, "
            "and give --workers for more processes"
        )
    gpus = _gpus(asked, job)
    # Those that write beside one that looks are beside each; else all processes are shared out.
    workers = args.workers if args.beside else max(1, args.workers // asked)
    return partial(LocalActors, workers, gpus)


def _on_ray(job: AnyJob, args: argparse.Namespace, asked: int | None) -> Callable[[], Actors]:
    """What starts actors on every GPU of a cluster of Ray, or on its cores."""
    wrong = Complaints()
    if asked is not None:
        wrong.say(
            f"--num-gpus is {asked}, which are of this machine, but --executor ray takes every GPU "
            "of the cluster: leave out one or the other"
        )
    wrong.of(_check_own, job, f"--executor is {RAY}")
    wrong.end()
    names = {*job.devices.values()} if job.looks else {"cpu"}
    gpus = False if names == {"cpu"} else True if "cuda" in names else None
    workers = None if isinstance(args.workers, NotAsked) and not args.beside else args.workers
    return partial(RayActors, args.address, workers, gpus, job.looks)


def _check_own(job: AnyJob, option: str) -> None:
    """Raise a UsageError if a device is named that only one process can have."""
    for key, name in job.devices.items():
        if name not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"{option}, which gives each process a GPU of its own, but {key} is {name}: leave "
                "out one or the other"
            )


def _gpus(asked: int, job: AnyJob) -> list[str]:
    """The GPU of each of the ``asked`` processes; empty names where they run on the CPU."""
    option = f"--num-gpus is {asked}"
    _check_own(job, option)
    if set(job.devices.values()) == {"cpu"}:
        keys = " and ".join(job.devices)
        many = f"{asked} processes look at images, and share the CPUs"
        say(f"note: {keys} is cpu: {many if asked > 1 else '1 process looks at images'}")
        return [""] * asked
    gpus = visible_gpus()
    if gpus is None:  # only PyTorch can tell, in each process
        return [str(index) for index in range(asked)]
    if not gpus:
        key = next(iter(job.devices))
        raise UsageError(
            f"{option}, but no CUDA device is visible: mend the driver, or put `{key} cpu` at the "
            f"end of the command, for {asked} processes on the CPU"
        )
    if asked > len(gpus):
        raise UsageError(
            f"{option}, but {len(gpus)} are visible ({', '.join(gpus)}): ask for as many at most, "
            f"or correct {VISIBLE}"
        )
    return gpus[:asked]
