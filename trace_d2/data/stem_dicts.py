"""Images as dataset dicts with what other folders hold of their stem: semantic masks, edges, pseudo
edges. ``io.subfolders`` tells which sub-folders are searched and what belongs together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trace_d2.data.dataset_files import folder_names, tolerate_absent
from trace_d2.data.label_folder import check_done
from trace_d2.io.json_files import paused_collector
from trace_d2.io.listing import ids_of_stems, list_images, read_names
from trace_d2.io.paths import composed, name_keys
from trace_d2.io.png import read_png_header
from trace_d2.io.subfolders import counterparts, files_by_stem, unclear
from trace_d2.jobs.folder import open_job_folder

logger = logging.getLogger(__name__)

SEMANTIC_KEY = "trace_semantic_file_name"
EDGES_KEY = "trace_edges_file_name"
PSEUDO_EDGES_KEY = "trace_pseudo_edges_file_name"
"""Where a record names its semantic mask, its edges and its pseudo edges."""

SEM_SEG_KEY = "sem_seg_file_name"
"""Where Detectron2 has a record name its drawn semantic map."""

SUBFOLDER = "pseudo_edges"
"""Where ``tools/make_pseudo_edges.py`` puts the maps in its output folder."""


@paused_collector()
def load_semantic_dicts(
    image_root: str | Path, semantic_root: str | Path, edges_root: str | Path | None, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images that have a mask, in order of their stems.

    Args:
        image_root: folder of the images.
        semantic_root: folder of ``<stem>.png``, pixel = category id, 255 = unknown.
        edges_root: folder of ``<stem>.png`` or ``<stem>.npy``, or None.

    Returns:
        ``{file_name, image_id, height, width (pixels, of the mask), trace_semantic_file_name}``
        each, and ``trace_edges_file_name`` if there is an ``edges_root``. An image's id is its
        name if all names are numbers, else its rank, from 1 (``ids_of_stems``).

    Raises:
        FileNotFoundError: a folder is missing, or 1 % of the masks or more lack image or edges.
        ValueError: no image has a mask, a mask is no PNG, or two files share a stem.
    """
    masks = _files(semantic_root, (".png",), "semantic masks", remedy)
    images = _list_images(image_root, remedy, semantic_root, edges_root)
    pairs = counterparts(images, masks)
    if not pairs:
        raise ValueError(
            f"no image of {image_root} has a mask <stem>.png in {semantic_root}: {remedy}"
        )
    _log_rest(logging.INFO, pairs, images, image_root, f"mask in {semantic_root}")
    strays = _strays(set(masks), pairs, images, f"masks of {semantic_root}")
    lost = f"masks of {semantic_root} have no image in {image_root}"
    tolerate_absent([masks[stem] for stem in strays], len(masks), lost, remedy)
    if edges_root is None:
        return _records(image_root, images, pairs, SEMANTIC_KEY, semantic_root, masks)
    edges = _files(edges_root, (".png", ".npy"), "edges", remedy)
    edge_pairs = counterparts(images, edges)
    bare = [images[stem] for stem in pairs if stem not in edge_pairs]
    tolerate_absent(bare, len(pairs), f"images with a mask have no edges in {edges_root}", remedy)
    both = {stem: mask for stem, mask in pairs.items() if stem in edge_pairs}
    records = _records(image_root, images, both, SEMANTIC_KEY, semantic_root, masks)
    for stem, record in zip(both, records, strict=True):
        record[EDGES_KEY] = f"{edges_root}/{edges[edge_pairs[stem]]}"
    return records


@paused_collector()
def load_sem_seg_dicts(
    image_root: str | Path,
    sem_seg_root: str | Path,
    remedy: str,
    list_file: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Dataset dicts of the images whose semantic maps were drawn, in order of their stems.

    Args:
        image_root: folder of the images.
        sem_seg_root: folder of ``<stem>.png``, pixel = contiguous id of a class, 255 = ignored.
        list_file: text of the images that are of the data set, a name a line; None: those that
            have a map.

    Returns:
        as ``load_semantic_dicts``, with ``sem_seg_file_name`` in place of masks and edges.

    Raises:
        FileNotFoundError: a folder or the list is missing, or 1 % of what must have an image or a
            map, or more, has none.
        ValueError: no image has a map, a map is no PNG, or two files share a stem.
    """
    maps = _files(sem_seg_root, (".png",), "semantic truth", remedy)
    images = _list_images(image_root, remedy, sem_seg_root)
    if list_file is not None:
        names = [name_keys(name)[1] for name in read_names(list_file, remedy)]
        listed = counterparts(names, images)
        lost = f"images of {list_file} are not in {image_root}"
        tolerate_absent([name for name in names if name not in listed], len(names), lost, remedy)
        images = {stem: images[stem] for stem in sorted(listed.values())}
    pairs = counterparts(images, maps)
    if not pairs:
        raise ValueError(
            f"no image of {image_root} has a map <stem>.png in {sem_seg_root}: {remedy}"
        )
    if list_file is None:
        strays = _strays(set(maps), pairs, images, f"maps of {sem_seg_root}")
        lost = f"maps of {sem_seg_root} have no image in {image_root}"
        tolerate_absent([maps[stem] for stem in strays], len(maps), lost, remedy)
        _log_rest(logging.INFO, pairs, images, image_root, f"map in {sem_seg_root}")
    else:
        bare = [images[stem] for stem in images if stem not in pairs]
        lost = f"images of {list_file} have no map in {sem_seg_root}"
        tolerate_absent(bare, len(images), lost, remedy)
    return _records(image_root, images, pairs, SEM_SEG_KEY, sem_seg_root, maps)


@paused_collector()
def load_edge_dicts(
    image_root: str | Path, edges_root: str | Path, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images that have pseudo edges, in order of their stems.

    Args:
        image_root: folder of the images.
        edges_root: output folder of ``tools/make_pseudo_edges.py``, or a folder of 8-bit
            ``<stem>.png``: 0 no edge, 255 edge, 128 ignored.

    Returns:
        as ``load_semantic_dicts``, with ``trace_pseudo_edges_file_name`` in place of masks and
        edges; height and width are the map's.

    Raises:
        FileNotFoundError: a folder is missing, or 1 % of the images or of the maps, or more.
        UnfinishedLabelsError: images of the folder are yet to be done.
        ValueError: no image has a map, a map is no PNG, or two files share a stem.
    """
    folder = edges_folder(edges_root)
    done = _done_stems(folder.parent) if folder.name == SUBFOLDER else None
    present = _files(folder, (".png",), "pseudo edges", remedy)
    wanted = set(present) if done is None else done
    images = _list_images(image_root, remedy, folder)
    pairs = counterparts(images, wanted)
    used = {stem: other for stem, other in pairs.items() if other in present}
    if not used:
        raise ValueError(
            f"no image of {image_root} has pseudo edges <stem>.png in {folder}: {remedy}"
        )
    for absent, lost in (
        (sorted(wanted - present.keys()), "are missing"),
        (_strays(wanted, pairs, images, f"maps of {folder}"), f"have no image in {image_root}"),
    ):
        tolerate_absent(absent, len(wanted), f"maps of {folder} {lost}", remedy)
    _log_rest(logging.WARNING, used, images, image_root, f"pseudo edges in {folder}")
    return _records(image_root, images, used, PSEUDO_EDGES_KEY, folder, present)


def edges_folder(edges_root: str | Path) -> Path:
    """The folder of the maps: ``edges_root`` itself, or its ``pseudo_edges/`` if it has one."""
    inner = Path(edges_root) / SUBFOLDER
    return inner if inner.is_dir() else Path(edges_root)


def png_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels from the head of a PNG file."""
    width, height = read_png_header(path, "PNG", "make it again").size
    return height, width


def _files(folder: str | Path, endings: Collection[str], what: str, remedy: str) -> dict[str, str]:
    """Stem to path below ``folder`` of the files of ``what``."""
    folder_names(folder, what, remedy)
    files = files_by_stem(folder, endings)
    for first, *others in files.values():
        if others:
            raise ValueError(f"both {first} and {others[0]} are in {folder}: remove one of them")
    return {stem: names[0] for stem, names in files.items()}


def _list_images(image_root: str | Path, remedy: str, *others: str | Path | None) -> dict[str, str]:
    folder_names(image_root, "images", remedy)
    return list_images(image_root, others)


def _strays(
    files: Collection[str], pairs: Mapping[str, str], images: Collection[str], what: str
) -> list[str]:
    """Those of ``files`` that have no image, though their folder has; others are told of."""
    bare = sorted(set(files).difference(pairs.values()))
    folders = {stem.rpartition("/")[0] for stem in images}
    strays = [stem for stem in bare if stem.rpartition("/")[0] in folders]
    others = [stem for stem in bare if stem.rpartition("/")[0] not in folders]
    if others:
        hint = unclear(images, files)
        logger.warning(
            "%d %s lie in folders without images, such as %s, and are not used%s",
            len(others), what, others[0], f"; {hint}" if hint else "",
        )  # fmt: skip
    return strays


def _log_rest(
    level: int, used: Collection[str], images: Collection[str], root: str | Path, lacking: str
) -> None:
    rest = len(images) - len(used)
    if rest:
        message = "%d of %d images of %s have no %s and are left out"
        logger.log(level, message, rest, len(images), root, lacking)


def _records(
    image_root: str | Path,
    images: Mapping[str, str],
    pairs: Mapping[str, str],
    key: str,
    folder: str | Path,
    files: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Dicts of images; what ``pairs`` says is theirs of ``files`` is ``key`` and tells sizes."""
    ids = ids_of_stems(list(images))
    records = []
    for stem, other in pairs.items():
        path = f"{folder}/{files[other]}"
        height, width = png_size(path)
        record = {"image_id": ids[stem], "height": height, "width": width, key: path}
        records.append({"file_name": f"{image_root}/{images[stem]}", **record})
    return records


def _done_stems(root: Path) -> set[str] | None:
    """Stems of the images that the job of the folder ``root`` made; None: no job wrote it."""
    job = open_job_folder(root)
    if job is None or not job.entries:
        return None
    check_done(job, "pseudo edges")
    return set(map(composed, job.done))
