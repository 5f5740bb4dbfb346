"""Where a cluster of Ray is, and what its nodes have room for. None is started here."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trace_d2.jobs.job import UsageError
from trace_d2.jobs.ray_cluster import Slot, check_ray, connected, find, has_gpus, slots


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def address() -> Iterator[str]:
    """Where something takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent() -> str:
    """Where nothing does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def note(folder: Path, address: str) -> None:
    (folder / "ray").mkdir()
    (folder / "ray/ray_current_cluster").write_text(f"{address}\n")


def test_without_ray_the_remedy_is_told(without_packages: Callable[..., None]) -> None:
    without_packages("ray")
    with pytest.raises(UsageError, match=r"the package ray: run .pip install 'trace_d2\[ray\]'"):
        check_ray(None)


def test_checking_imports_no_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setitem(sys.modules, "ray.util", None)  # none of its parts may be asked for
    check_ray(address)


def test_which_cluster_is_meant(tmp_path, address, silent, monkeypatch) -> None:
    assert find(None) is None  # none runs here: one of its own
    assert find("local") is None
    assert find(address) == address
    note(tmp_path, address)
    assert find(None) == find("auto") == address
    monkeypatch.setenv("RAY_ADDRESS", silent)
    assert find("auto") == find(address) == address  # the option wins
    with pytest.raises(UsageError, match=f"answers at {silent}: .*correct RAY_ADDRESS"):
        find(None)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find(None) is None


def test_a_cluster_that_is_gone_is_none(tmp_path, silent) -> None:
    note(tmp_path, silent)
    assert find(None) is None
    with pytest.raises(UsageError, match=r"no cluster of Ray runs on this machine \(--address is"):
        find("auto")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ray://head:10001", "for Ray's client, which sees neither images nor output"),
        ("head", "'head' is no address of a cluster of Ray: give HOST:PORT"),
        ("", "'' is no address"),
        ("head:", "is no address"),
        ("head:70000", "no cluster of Ray answers at head:70000"),
        ("no-such-host.invalid:6379", "answers at no-such-host.invalid:6379: start one"),
        ("/tmp/socket", "is no address"),
    ],
)
def test_what_is_no_cluster_is_refused(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(given)


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError])
def test_who_is_not_let_in_is_told_of_the_token(kind, address, monkeypatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**options: Any) -> None:
        raise kind(f"Failed to connect to Ray cluster at {address}")

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(
            UsageError, match=r"RAY_AUTH_MODE=token .*auth_token.*Ray says: Failed to connect"
        ),
        connected(address, 1),
    ):
        pass


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {
        "NodeID": f"id-{name}",
        "NodeManagerHostname": name,
        "Alive": alive,
        "Resources": {"memory": 1e9, **resources},
    }


NODES = [node("a", CPU=8.0, GPU=2.0), node("b", CPU=3.0), node("c"), node("d", False, CPU=9.0)]


def places(gpus: bool, workers: int | None, looks: bool) -> list[tuple[str, int, int]]:
    return [(slot.name, slot.cpus, slot.workers) for slot in slots(NODES, gpus, workers, looks)]


def test_places_on_nodes() -> None:
    # A GPU each, with its share of the cores.
    assert places(True, None, True) == [("a:gpu0", 4, 4), ("a:gpu1", 4, 4)]
    assert places(True, 2, True) == [("a:gpu0", 4, 2), ("a:gpu1", 4, 2)]
    # Without: a model takes all cores of a node, what needs none a core.
    assert places(False, None, True) == [("a:cpu0", 8, 8), ("b:cpu0", 3, 3)]
    assert places(False, 4, True) == [("a:cpu0", 8, 4), ("b:cpu0", 3, 3)]
    assert places(False, 1, False) == [("a:cpu0", 1, 1), ("b:cpu0", 1, 1)]
    assert len(places(False, None, False)) == 11
    # GPUs without cores that Ray may give away.
    assert slots([node("e", GPU=1.0)], True, None, True) == [Slot("id-e", "e", 0, 0, True, 1)]
    assert [has_gpus([one]) for one in NODES] == [True, False, False, False]
