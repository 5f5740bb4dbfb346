"""Images as dataset dicts with what other folders hold of their stem: semantic masks, edges, pseudo
edges."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trace_d2.data.dataset_files import folder_names, tolerate_absent
from trace_d2.data.label_folder import check_done
from trace_d2.io.json_files import paused_collector
from trace_d2.io.listing import ids_of_stems, list_images
from trace_d2.io.paths import composed, file_below
from trace_d2.io.png import read_png_header
from trace_d2.jobs.folder import open_job_folder

logger = logging.getLogger(__name__)

SEMANTIC_KEY = "trace_semantic_file_name"
EDGES_KEY = "trace_edges_file_name"
PSEUDO_EDGES_KEY = "trace_pseudo_edges_file_name"
"""Where a record names its semantic mask, its edges and its pseudo edges."""

SUBFOLDER = "pseudo_edges"
"""Where ``tools/make_pseudo_edges.py`` puts the maps in its output folder."""


@paused_collector()
def load_semantic_dicts(
    image_root: str | Path, semantic_root: str | Path, edges_root: str | Path | None, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images that have a mask, in order of their stems.

    Args:
        image_root: folder of the images (not below it).
        semantic_root: folder of ``<stem>.png``, pixel = category id, 255 = unknown.
        edges_root: folder of ``<stem>.png`` or ``<stem>.npy``, or None.

    Returns:
        ``{file_name, image_id, height, width (pixels, of the mask), trace_semantic_file_name}``
        each, and ``trace_edges_file_name`` if there is an ``edges_root``. An image's id is its
        stem if all stems are numbers, else its rank in the folder, from 1.

    Raises:
        FileNotFoundError: a folder is missing, or 1 % of the masks or more lack image or edges.
        ValueError: no image has a mask, a mask is no PNG, or two files share a stem.
    """
    masks = _png_stems(semantic_root, "semantic masks", remedy)
    images = _list_images(image_root, remedy)
    masked = [stem for stem in images if stem in masks]
    if not masked:
        raise ValueError(
            f"no image of {image_root} has a mask <stem>.png in {semantic_root}: {remedy}"
        )
    _log_rest(logging.INFO, masked, images, image_root, f"mask in {semantic_root}")
    strays = [f"{stem}.png" for stem in sorted(masks - images.keys())]
    lost = f"masks of {semantic_root} have no image in {image_root}"
    tolerate_absent(strays, len(masks), lost, remedy)
    if edges_root is None:
        return _records(image_root, images, masked, SEMANTIC_KEY, semantic_root)
    edges = _edge_files(edges_root, remedy)
    bare = [images[stem] for stem in masked if stem not in edges]
    tolerate_absent(bare, len(masked), f"images with a mask have no edges in {edges_root}", remedy)
    edged = [stem for stem in masked if stem in edges]
    records = _records(image_root, images, edged, SEMANTIC_KEY, semantic_root)
    for stem, record in zip(edged, records, strict=True):
        record[EDGES_KEY] = f"{edges_root}/{edges[stem]}"
    return records


@paused_collector()
def load_edge_dicts(
    image_root: str | Path, edges_root: str | Path, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images that have pseudo edges, in order of their stems.

    Args:
        image_root: folder of the images (not below it).
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
    present = _png_stems(folder, "pseudo edges", remedy)
    wanted = present if done is None else done
    images = _list_images(image_root, remedy)
    usable = wanted & present
    used = [stem for stem in images if stem in usable]
    if not used:
        raise ValueError(
            f"no image of {image_root} has pseudo edges <stem>.png in {folder}: {remedy}"
        )
    for absent, lost in (
        (wanted - present, "are missing"),
        (wanted - images.keys(), f"have no image in {image_root}"),
    ):
        tolerate_absent(sorted(absent), len(wanted), f"maps of {folder} {lost}", remedy)
    _log_rest(logging.WARNING, used, images, image_root, f"pseudo edges in {folder}")
    return _records(image_root, images, used, PSEUDO_EDGES_KEY, folder)


def edges_folder(edges_root: str | Path) -> Path:
    """The folder of the maps: ``edges_root`` itself, or its ``pseudo_edges/`` if it has one."""
    inner = Path(edges_root) / SUBFOLDER
    return inner if inner.is_dir() else Path(edges_root)


def png_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels from the head of a PNG file."""
    width, height = read_png_header(path, "PNG", "make it again").size
    return height, width


def _png_stems(folder: str | Path, what: str, remedy: str) -> set[str]:
    names = folder_names(folder, what, remedy)
    return {composed(name.removesuffix(".png")) for name in names if name.endswith(".png")}


def _list_images(image_root: str | Path, remedy: str) -> dict[str, str]:
    folder_names(image_root, "images", remedy)
    return list_images(image_root)


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
    stems: Sequence[str],
    key: str,
    folder: str | Path,
) -> list[dict[str, Any]]:
    """Dicts of the ``stems`` of ``images``; their PNG in ``folder`` tells sizes and is ``key``."""
    ids = ids_of_stems(list(images))
    records = []
    for stem in stems:
        name = f"{stem}.png"
        path = f"{folder}/{name}" if name.isascii() else str(file_below(folder, name))
        height, width = png_size(path)
        record = {"image_id": ids[stem], "height": height, "width": width, key: path}
        records.append({"file_name": f"{image_root}/{images[stem]}", **record})
    return records


def _edge_files(folder: str | Path, remedy: str) -> dict[str, str]:
    """Stem to name of the edge files in ``folder``."""
    files: dict[str, str] = {}
    for name in sorted(folder_names(folder, "edges", remedy)):
        stem, dot, suffix = name.rpartition(".")
        if not dot or suffix not in ("png", "npy"):
            continue
        stem = composed(stem)
        if stem in files:
            raise ValueError(f"both {files[stem]} and {name} are in {folder}: remove one of them")
        files[stem] = name
    return files


def _done_stems(root: Path) -> set[str] | None:
    """Stems of the images that the job of the folder ``root`` made; None: no job wrote it."""
    job = open_job_folder(root)
    if job is None or not job.entries:
        return None
    check_done(job, "pseudo edges")
    return set(map(composed, job.done))
