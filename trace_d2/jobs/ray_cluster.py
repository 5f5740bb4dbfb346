"""A cluster of Ray: where it is, the way in, and places for actors on its nodes.

Ray itself is imported once there is something to connect to, so that what is wrong is said before.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_d2.jobs.job import UsageError

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:/\s\[\]]+):(?P<port>[0-9]{1,5})")
_SECONDS = 5.0  # a host that takes longer to answer is none to work with
_STORE_BYTES = 80 * 2**20  # the least that Ray takes: entries and records are small
_START = "ray start --head"
_NO_WAY_IN = (
    "the cluster of Ray at {} does not let this process in. If it wants a token (`ray start` says "
    "so as it starts), set RAY_AUTH_MODE=token here, and have the head's token in "
    "~/.ray/auth_token or RAY_AUTH_TOKEN; else set RAY_AUTH_MODE=disabled. Ray says: {}"
)


@dataclass(frozen=True)
class Slot:
    """A place for one actor.

    Attributes:
        node: Ray's id of the node.
        host: the node's name.
        rank: of the slots of a node, counted from 0.
        cpus: cores that are reserved for the actor.
        gpu: whether a GPU is.
        workers: processes that make and write in the actor.
    """

    node: str
    host: str
    rank: int
    cpus: int
    gpu: bool
    workers: int

    @property
    def name(self) -> str:
        """For messages, and records."""
        return f"{self.host}:{'gpu' if self.gpu else 'cpu'}{self.rank}"


def check_ray(address: str | None) -> None:
    """Raise a UsageError where Ray is missing, or no cluster is at ``address``; see ``find``.

    Ray itself waits 80 seconds for a cluster that is not there, and then ends the process.
    """
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            "--executor ray needs the package ray: run `pip install 'trace_d2[ray]'`"
        ) from error
    find(address)


def find(address: str | None) -> str | None:
    """Where the cluster is that ``address`` means, as ``"HOST:PORT"``; None: there is none yet.

    Args:
        address: ``"HOST:PORT"``; ``"auto"``: the cluster that runs on this machine; ``"local"``:
            none; None: what ``RAY_ADDRESS`` says, or the cluster that runs on this machine, if one
            does.

    Raises:
        UsageError: it is no address, or nothing answers there.
    """
    option = "--address" if address is not None else "RAY_ADDRESS"
    given = (os.environ.get("RAY_ADDRESS") or None) if address is None else address
    if given == "local":
        return None
    if given in (None, "auto"):
        noted = _noted_address()
        if noted is None or not _answers(noted):
            if given is None:
                return None
            raise UsageError(
                f"no cluster of Ray runs on this machine ({option} is auto): start one by "
                f"`{_START}`, or name another by --address HOST:PORT"
            )
        return noted
    if given.startswith("ray://"):
        raise UsageError(
            f"{option} {given} is for Ray's client, which sees neither images nor output: run the "
            "command on a machine of the cluster, with --address HOST:PORT as `ray start` tells it"
        )
    if not _ADDRESS.fullmatch(given):
        raise UsageError(
            f"{option} {given!r} is no address of a cluster of Ray: give HOST:PORT as `{_START}` "
            "tells it, auto for the one on this machine, or local for one of its own"
        )
    if not _answers(given):
        raise UsageError(
            f"no cluster of Ray answers at {given}: start one by `{_START}`, correct {option}, or "
            "let this machine reach that port"
        )
    return given


@contextlib.contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Be part of the cluster at ``address``, or of one of this machine alone, within the block.

    Args:
        address: see ``find``.
        cpus: cores that actors may have, of a cluster of this machine alone.

    Raises:
        UsageError: there is none, it lets nobody in without its token, or it has another Python
            or Ray.
    """
    found = find(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    # Said by Ray as a warning of what a later version does: where there is no GPU, actors see none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    _hush()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        if found is None:
            # A place of its own, which goes with it; a name of a socket has 107 bytes at most.
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
            )
            options.update(
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _temp_dir=place,
            )
        try:
            ray.init(address=found or "local", **options)
        except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            if found is None:
                raise
            told = " ".join(str(error).split())
            if "Version mismatch" not in told:
                raise UsageError(_NO_WAY_IN.format(found, told)) from error
            raise UsageError(
                f"the cluster at {found} has another Python or Ray than this machine: install the "
                f"same ones everywhere. {told}"
            ) from error
        stack.callback(ray.shutdown)
        yield


def has_gpus(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any of ``nodes``, what ``ray.nodes()`` tells, has a GPU."""
    return any(node["Alive"] and node["Resources"].get("GPU", 0) >= 1 for node in nodes)


def slots(
    nodes: Iterable[Mapping[str, Any]], gpus: bool, workers: int | None, looks: bool
) -> list[Slot]:
    """Places for actors on ``nodes``, what ``ray.nodes()`` tells.

    Args:
        gpus: whether actors have a GPU each; nodes without one have no place then.
        workers: processes that make and write, of a GPU or of a node without; None: a core each.
        looks: whether a model looks at images: without GPUs a node has one, which takes all cores;
            else a core does for an actor.
    """
    found = []
    for node in nodes:
        if not node["Alive"]:
            continue
        has = node["Resources"]
        cores, devices = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if gpus:
            count, cpus = devices, cores // max(1, devices)
        elif looks:
            count, cpus = min(1, cores), cores
        else:
            count, cpus = min(cores, workers or cores), 1
        own = max(1, min(cpus, workers or cpus)) if looks else 1
        host = node["NodeManagerHostname"]
        found += [Slot(node["NodeID"], host, rank, cpus, gpus, own) for rank in range(count)]
    return found


def _noted_address() -> str | None:
    """Where Ray notes the cluster that runs on this machine, or did; None where it noted none."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    path = Path(folder, "ray", "ray_current_cluster")
    noted = path.read_text("utf-8").strip() if path.is_file() else ""
    return noted if _ADDRESS.fullmatch(noted) else None


def _answers(address: str) -> bool:
    """Whether anything takes connections at ``address``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except (OSError, OverflowError, UnicodeError):
        return False
    return True


def _hush() -> None:
    """Let Ray not print what it learns of nodes: their logs, when one is lost. We tell of it.

    Its options silence its loggers and the output of actors, but not this.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):  # no public name, so it may go
        worker.print_to_stdstream = lambda *args, **options: None
