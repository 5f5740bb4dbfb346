"""SA-1B, which has a file of annotations beside each photograph, as one file of one class."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from trace_d2.complaints import tell_all
from trace_d2.data.dataset_files import folder_names, tolerate_absent
from trace_d2.data.prepare.image_sizes import of_own_size
from trace_d2.data.prepare.making import make_each
from trace_d2.data.prepare.one_class import as_object, listed_image, write_one_class
from trace_d2.io.coco_instances import read_truth
from trace_d2.io.json_files import FieldError, read_json, shown, whole_number
from trace_d2.io.paths import composed, name_keys

_AGAIN = "unpack the archive again"


class _Annotated(NamedTuple):
    """A photograph's entry of ``images``, and its annotations."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def prepare_sa1b(
    folder: str | Path, output: str | Path, limit: int | None = None, progress: bool = True
) -> tuple[int, int]:
    """Join the annotations of SA-1B's photographs to one COCO file, ``output``.

    ``folder`` holds ``sa_<n>.jpg`` and ``sa_<n>.json``, as its archives do; the first ``limit`` are
    taken, in order of their numbers. Returns how many images and annotations were written.

    Raises:
        FileNotFoundError: 1 % of the photographs or more lack one of the two files; of fewer, which
            are left out, it is told.
        ValueError: files are damaged, of another photograph, or 1 % or more of another size; all
            are looked at first.
    """
    stems = _stems(folder)[:limit]
    found = make_each(partial(_read, Path(folder)), stems, 1, "SA-1B", progress)
    owners: dict[Any, str] = {}
    twice = [
        f"{Path(folder, stem)}.json has the image_id of {other}.json: {_AGAIN}"
        for stem, one in zip(stems, found, strict=True)
        if (other := owners.setdefault(one.image["id"], stem)) != stem
    ]
    tell_all(twice)
    images = of_own_size([one.image for one in found], folder, "their annotations", progress)
    kept = {image["id"] for image in images}
    rows = [row for one in found if one.image["id"] in kept for row in one.annotations]
    return write_one_class(output, images, rows, "SA-1B as one class, joined by trace_d2")


def _stems(folder: str | Path) -> list[str]:
    """The photographs that have their annotations, in order of their numbers."""
    listed = folder_names(folder, "SA-1B photographs and annotations", "unpack an archive there")
    names = {name for name in listed if name[0] != "."}  # as Macs add ._sa_1.jpg to archives
    known = {name[: -len(".json")] for name in names if name.endswith(".json")}
    known |= {name[: -len(".jpg")] for name in names if name.endswith(".jpg")}
    both = {stem for stem in known if {f"{stem}.jpg", f"{stem}.json"} <= names}
    lacking = sorted(known - both) if both else []
    what = f"photographs in {folder} lack their .jpg or their .json"
    tolerate_absent(lacking, len(known), what, _AGAIN)
    if not both:
        raise FileNotFoundError(
            f"no sa_<n>.json with its sa_<n>.jpg in {folder}: unpack an archive of SA-1B there"
        )
    return sorted(both, key=lambda stem: (len(stem), stem))


def _read(folder: Path, stem: str) -> _Annotated:
    """What one file has; raises where it is damaged or of another photograph."""
    path = folder / f"{stem}.json"
    content = read_json(path, remedy=_AGAIN)
    image = content.get("image") if isinstance(content, dict) else None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(image, dict) or not isinstance(annotations, list):
        raise ValueError(f'{path} has no "image" and "annotations" of SA-1B: {_AGAIN}')
    named = image.get("file_name")
    try:
        owner = whole_number(image.get("image_id"))
    except FieldError as error:
        raise ValueError(f"{path}: its image_id {error}: {_AGAIN}") from error
    if isinstance(named, str) and name_keys(named)[0] != composed(stem):
        raise ValueError(f"{path} is of the photograph {shown(named)}: {_AGAIN}")
    photograph = {**image, "id": owner, "file_name": f"{stem}.jpg"}
    marked = [{**row, "image_id": owner} if isinstance(row, dict) else row for row in annotations]
    truth = read_truth({"images": [photograph], "annotations": marked}, None, name=str(path))
    entry = listed_image(truth.images[owner], str(path))
    return _Annotated(entry, [as_object(truth, row) for row in truth.annotations])
