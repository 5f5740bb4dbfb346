"""Which images a job has, their ids, and how shards and the report page divide them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trace_d2.io.listing import ids_of_stems


class UsageError(ValueError):
    """The command asks for something that cannot be."""


@dataclass(frozen=True)
class ImageEntry:
    """One image of a job.

    Attributes:
        stem: its file name without the ending; names its mask, edges and labels.
        file_name: its file name.
        image_id: its id in COCO files; None: the given list of ids does not name it.
        pictured: whether the report page shows it.
    """

    stem: str
    file_name: str
    image_id: int | None
    pictured: bool = False


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1; 1/1 is the whole job."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"I/N"`` with 1 <= I <= N; raises ValueError otherwise."""
        first, slash, second = text.partition("/")
        if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
            return cls(int(first), int(second))
        raise ValueError(f"a shard is I/N with I in 1..N, such as 1/4; got {text!r}")

    @property
    def whole(self) -> bool:
        """Whether this is not a part at all."""
        return self.count == 1

    @property
    def name(self) -> str:
        """``"I-of-N"``, for file names."""
        return f"{self.index}-of-{self.count}"

    def take(self, entries: Sequence[ImageEntry]) -> list[ImageEntry]:
        """Every ``count``-th entry, so that shards see alike images and take alike long."""
        return list(entries[self.index - 1 :: self.count])


def build_entries(
    names: Mapping[str, str], ids: Mapping[str, int] | None, pictured: Sequence[str] = ()
) -> list[ImageEntry]:
    """Entries of ``names`` (stem to file name), in their order.

    Args:
        names: as ``list_images`` returns them.
        ids: image id of each stem as ``read_image_ids`` returns them; None: ``ids_of_stems``.
        pictured: stems that the report page shows.

    Raises:
        ValueError: two numeric stems are one number, or ``ids`` names none of the images.
    """
    if ids is None:
        ids = ids_of_stems(list(names))
    elif not any(stem in ids for stem in names):
        raise ValueError(
            f"the list of images names none of the {len(names)} images (the first is "
            f"{next(iter(names.values()))}): give the list that belongs to them"
        )
    shown = frozenset(pictured)
    return [ImageEntry(stem, name, ids.get(stem), stem in shown) for stem, name in names.items()]
