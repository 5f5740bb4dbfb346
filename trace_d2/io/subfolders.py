"""Sub-folders: which of them are searched, and which file of one folder goes with which of another.

The stem of a file is its path below the folder that is searched, without its ending and with ``/``
between its parts: ``train/a/0001``. Stems are composed (NFC), however the folder has them.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

from .fans import PART, unfanned
from .json_files import shown
from .paths import composed
from .remote import InputFolder, RemoteFolder, input_folder

_RESULTS = frozenset({"settings.json", "journal.jsonl"})  # what every folder of a job's results has
_OF_SYSTEMS = frozenset(  # for the use of file systems, archives and network disks
    {
        "#recycle", "$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX",
        "lost+found",
    }
)  # fmt: skip


def walk_folder(
    root: str | InputFolder, leave_out: Iterable[str | InputFolder | None] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Every folder from ``root`` down with the names of its files.

    Links to folders are followed, but no folder is visited twice, so that loops end; one that links
    lead to as well counts where it lies itself. Left out are hidden files and folders, folders that
    systems keep, folders of results of our jobs, and ``leave_out``.

    Args:
        root: the folder, whatever it is.
        leave_out: other folders, which need not exist; None: none.

    Yields:
        the path of the folder below ``root`` with ``/`` at its end, "" for ``root``; and the names.

    Raises:
        OSError: a folder cannot be looked into.
    """
    root = input_folder(root)
    others = [input_folder(path) for path in leave_out if path]
    if isinstance(root, RemoteFolder):
        yield from _listed(root, [path for path in others if isinstance(path, RemoteFolder)])
        return
    seen = {_identity(path) for path in others if isinstance(path, Path) and path.is_dir()}
    seen.discard(_identity(root))
    folders, links = [""], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        path = os.path.join(root, folder)
        identity = _identity(path)
        if identity in seen:
            continue
        seen.add(identity)
        names, inner, linked = _look_into(path)
        if folder and _RESULTS.issubset(names):
            continue
        yield folder, names
        folders += sorted((f"{folder}{name}/" for name in inner), reverse=True)
        links += [f"{folder}{name}/" for name in linked]


def files_by_stem(
    root: str | InputFolder,
    endings: Collection[str],
    leave_out: Iterable[str | InputFolder | None] = (),
) -> dict[str, list[str]]:
    """Paths below ``root`` of the files with ``endings`` (".png"), by stem; see ``walk_folder``.

    ``endings`` are in small letters, those of files in any: cameras and Windows write ``x.PNG``.
    Stems are in order of their folders, those of a folder before those of its sub-folders. Several
    files of one stem are in sorted order. Parts that our jobs make (``fans``) are no folders of
    stems.
    """
    wanted = frozenset(endings)
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for folder, names in walk_folder(root, leave_out):
        place, in_part = composed(folder[:-1]), folder.startswith(PART)
        own = found[place]
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending not in wanted and ending.lower() not in wanted:
                continue
            stem = composed(stem)
            if in_part and (whole := unfanned(f"{place}/{stem}")) != f"{place}/{stem}":
                inner, _, stem = whole.rpartition("/")
                found[inner].setdefault(stem, []).append(folder + name)
            else:
                own.setdefault(stem, []).append(folder + name)
    return {
        f"{folder}/{stem}" if folder else stem: files if len(files) == 1 else sorted(files)
        for folder, own in sorted(found.items())
        for stem, files in sorted(own.items())
    }


def has_folder(root: str | InputFolder, name: str) -> bool:
    """Whether there is a folder ``name``, with ``/`` between its parts, in ``root``."""
    if isinstance(root, RemoteFolder):
        return root.stamp(f"{name}/") is not None
    return Path(root, name).is_dir()


def counterparts(stems: Collection[str], others: Collection[str]) -> dict[str, str]:
    """The one of ``others`` that belongs to each of ``stems`` that has one.

    That is the same path; else the only one that is the end of the other, or of which the other is
    the end: ``train/a/0001`` goes with ``a/0001``. Where the end is the name alone, so that files
    may lie in a flat folder, no other on either side may have that name.
    """
    given = set(others)
    found = {stem: stem for stem in stems if stem in given}
    bare, rest = [stem for stem in stems if stem not in found], given - found.keys()
    if not bare or not rest:
        return found
    longer: dict[str, list[str]] = defaultdict(list)
    for other in rest:
        for end in path_ends(other):
            longer[end].append(other)
    choices = {
        stem: [*longer.get(stem, ()), *(end for end in path_ends(stem) if end in rest)]
        for stem in bare
    }
    chosen = Counter(chain.from_iterable(choices.values()))
    names = Counter(map(_name, stems)), Counter(map(_name, given))
    for stem, choice in choices.items():
        if len(choice) != 1 or chosen[choice[0]] != 1:
            continue
        if "/" in min(stem, choice[0], key=len) or all(side[_name(stem)] == 1 for side in names):
            found[stem] = choice[0]
    return {stem: found[stem] for stem in stems if stem in found}


def path_ends(stem: str) -> list[str]:
    """The ends of a path that are shorter than it: of ``a/b/c`` they are ``b/c`` and ``c``."""
    ends = []
    while "/" in stem:
        stem = stem.partition("/")[2]
        ends.append(stem)
    return ends


def unclear(stems: Collection[str], others: Collection[str]) -> str:
    """What to say where some of ``others`` have names of ``stems``, but ``counterparts`` has not
    found them to belong together; empty if there are none.
    """
    found = counterparts(stems, others)
    bare = {_name(stem): stem for stem in sorted(set(stems) - found.keys(), reverse=True)}
    rest = sorted(set(others).difference(found.values()))
    near = [(bare[_name(other)], other) for other in rest if _name(other) in bare]
    if not near:
        return ""
    stem, other = near[0]
    return (
        f"{len(near)} have the name of an image in another folder, such as {shown(other)} for "
        f"{shown(stem)}: put them into the same sub-folders as the images"
    )


def _name(stem: str) -> str:
    return stem.rpartition("/")[2]


def _listed(
    root: RemoteFolder, leave_out: Collection[RemoteFolder]
) -> Iterator[tuple[str, list[str]]]:
    """``walk_folder`` of a folder by address."""
    start = f"{str(root).rstrip('/')}/"
    others = [f"{other}/".removeprefix(start) for other in leave_out]
    left_out = [name for name in others if name and "://" not in name]
    held = root.folders()
    left_out += [folder for folder, names in held.items() if folder and _RESULTS.issubset(names)]
    passed = tuple(left_out)
    for folder, names in held.items():
        parts = folder.split("/")[:-1]
        if folder.startswith(passed) or any(p in _OF_SYSTEMS or p[:1] == "." for p in parts):
            continue
        yield folder, [name for name in names if name[0] != "."]


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _look_into(path: str) -> tuple[list[str], list[str], list[str]]:
    """The names of the files, of the folders and of the links to folders that are searched."""
    names, inner, linked = list[str](), list[str](), list[str]()
    for entry in _entries(path):
        if entry.name[0] == ".":
            continue
        if not _is_folder(entry):
            names.append(entry.name)
        elif entry.name not in _OF_SYSTEMS:
            (linked if entry.is_symlink() else inner).append(entry.name)
    return names, inner, linked


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except PermissionError as error:
        raise PermissionError(
            f"cannot look into {shown(path)} ({error.strerror}): make it readable, or move it away "
            "from the images"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
