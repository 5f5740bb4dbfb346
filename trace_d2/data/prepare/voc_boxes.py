"""Boxes of VOC's XML: VOC 2007, and Clipart1k, Watercolor2k and Comic2k, which have its form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from trace_d2.data.prepare.boxes import Box, BoxedImage, numbers, write_boxes
from trace_d2.data.prepare.one_class import SEE
from trace_d2.io.json_files import shown
from trace_d2.io.listing import read_names

_AGAIN = "unpack the data set again"


class VocSet(NamedTuple):
    """A data set of VOC's form.

    Attributes:
        inner: where its Annotations/, ImageSets/ and JPEGImages/ are, below its folder.
        splits: the lists of ImageSets/Main that are taken together.
        output: the file that is written, below its folder.
    """

    inner: str
    splits: tuple[str, ...]
    output: str


_PAINTED = VocSet("", ("train", "test"), "annotations/traintest_cls_agnostic.json")
SETS = {
    "voc": VocSet(
        "VOC2007", ("trainval", "test"), "annotations/trainvaltest_2007_cls_agnostic.json"
    ),
    "clipart": _PAINTED,
    "watercolor": _PAINTED,
    "comic": _PAINTED,
}
"""By name of folder; all of a data set, as CutLER evaluates on it."""


def prepare_voc_boxes(
    folder: str | Path, name: str, difficult: bool = False, progress: bool = True
) -> tuple[int, int]:
    """Write the boxes of a data set of ``SETS`` as one class, below its ``folder``.

    Objects marked as difficult are written as ``iscrowd``: found or not, they count neither way,
    as by VOC's own rule. ``difficult`` makes them count, and is in the file's name. Returns how
    many images and boxes were written.

    Raises:
        ValueError, FileNotFoundError: as ``write_boxes``; lists and XML that are missing or broken.
    """
    folder, known = Path(folder), SETS[name]
    inner = folder / known.inner
    lists = [inner / f"ImageSets/Main/{split}.txt" for split in known.splits]
    stems = sorted({stem for path in lists for stem in read_names(path, SEE)})
    images = [
        BoxedImage(
            (Path(known.inner) / f"JPEGImages/{stem}.jpg").as_posix(),
            _boxes(inner / f"Annotations/{stem}.xml", difficult),
        )
        for stem in stems
    ]
    output = folder / known.output
    description = f"boxes of {name} as one class, converted by trace_d2"
    if difficult:
        output = output.with_name(output.name.replace("_cls", "_difficult_cls"))
        description += "; difficult objects count"
    return write_boxes(output, folder, images, description, progress)


def _boxes(path: Path, difficult: bool) -> Iterator[Box]:
    """The boxes of an XML, whose first pixel is 1, 1, and whose last one is within."""
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}: {_AGAIN}")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last: encodings
        raise ValueError(f"{path} is no XML ({error}): {_AGAIN}") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} is no annotation of VOC, but <{root.tag}>: {_AGAIN}")
    sides = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
    known = all(side.isdecimal() and int(side) for side in sides)
    drawn_on = (int(sides[0]), int(sides[1])) if known else None
    for rank, thing in enumerate(root.findall("object"), start=1):
        where = f"{path}, object {rank} ({thing.findtext('name', 'without name').strip()})"
        left, top, right, bottom = _corners(thing, where)
        ignored = _is_marked(thing, where) and not difficult
        yield Box((left - 1, top - 1, right, bottom), where, ignored, drawn_on=drawn_on)


def _is_marked(thing: ElementTree.Element, where: str) -> bool:
    """Whether an object is difficult."""
    text = thing.findtext("difficult", "0").strip().lower()
    if text not in ("0", "1", "false", "true"):
        raise ValueError(f"{where}: difficult is {shown(text)}, neither 0 nor 1: {_AGAIN}")
    return text in ("1", "true")


def _corners(thing: ElementTree.Element, where: str) -> Sequence[float]:
    sides = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    if None in sides:
        raise ValueError(f"{where} has no bndbox of xmin, ymin, xmax and ymax: {_AGAIN}")
    return numbers([side or "nothing" for side in sides], where)
