"""Imports go one way through the rooms of the package, without circles."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import trace_d2

PACKAGE = Path(trace_d2.__file__).parent

# Each floor may import from itself and from those before it (docs/architecture.md).
FLOORS = (
    (
        *("_version", "io", "attention", "propagation", "config", "settings", "parallel"),
        *("remarks", "terminal", "complaints", "devices"),
    ),
    ("backbones", "labels", "masks"),
    ("edges",),
    ("jobs", "modeling", "evaluation", "scenes"),
    ("data",),
    ("engine", "plugin", "model_zoo"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Dotted name to file of every module of the package but its lazy ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that ``path`` imports anywhere, inside functions as well."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            source = ".".join(filter(None, (base, node.module))) if node.level else node.module
            found |= {f"{source}.{alias.name}" for alias in node.names} & known.keys() or {source}
    return {module for module in found if module in known and module != "trace_d2"}


@cache
def graph() -> dict[str, set[str]]:
    """Module to the modules it imports; a package's ``__init__`` only passes names on."""
    known = modules()
    return {n: imported(n, p, known) for n, p in known.items() if n != "trace_d2"}


def room(module: str) -> str:
    """The room of a module."""
    return module.split(".")[1]


def test_every_room_has_a_floor():
    assert {room(module) for module in graph()} <= FLOOR.keys()


def test_nothing_imports_upwards():
    upward = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if FLOOR[room(target)] > FLOOR[room(module)]
    ]
    assert not upward, "\n".join(upward)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in order:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == order[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in edges:
        if node not in order:
            visit(node)
    return found


def test_no_circles_of_modules():
    assert circles(graph()) == []


def test_no_circles_of_rooms():
    rooms = defaultdict(set)
    for module, targets in graph().items():
        rooms[room(module)] |= {room(target) for target in targets} - {room(module)}
    assert circles(rooms) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_data_reads_jobs_by_their_store_alone():
    own = {module: targets for module, targets in graph().items() if room(module) == "data"}
    read = {target for targets in own.values() for target in targets if room(target) == "jobs"}
    assert read == {"trace_d2.jobs.folder"}
