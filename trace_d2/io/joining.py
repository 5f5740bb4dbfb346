"""Two files of one data set joined by the ids of images, which file names confirm or correct.

An id says nothing by itself: labels that number images by rank, and a truth that numbers them
otherwise, have ids in common that are of other images. So wherever both sides name the file of an
image, the names must be the same; where they are not, names decide, and that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .json_files import shown
from .paths import name_keys

logger = logging.getLogger(__name__)

MATCHES = ("auto", "id", "file_name")
"""How images are found: by id, and where file names disagree by those; by id alone; or by file
name. Folders and endings count only where names are not told apart without."""


@dataclass(frozen=True)
class ImageNames:
    """The file name of each image of one file.

    Attributes:
        origin: the file, for messages.
        names: by image id; None or "" where the file does not tell.
        indirect: the names are of PNGs that need not be named after their images, so that one
            that is strange to the other side says nothing.
    """

    origin: str
    names: Mapping[Any, str | None]
    indirect: bool = False

    @cached_property
    def by_key(self) -> tuple[dict[str, list[Any]], ...]:
        """Image ids by each of the three ``name_keys``."""
        tables: tuple[dict[str, list[Any]], ...] = ({}, {}, {})
        for image_id, name in self.names.items():
            for table, key in zip(tables, name_keys(name) if name else (), strict=False):
                table.setdefault(key, []).append(image_id)
        return tables

    def unique(self, level: int) -> bool:
        """Whether the keys of this level tell all images apart."""
        return all(len(ids) == 1 for ids in self.by_key[level].values())


def join_images(known: ImageNames, given: ImageNames, match: str = "auto") -> dict[Any, Any]:
    """The id in ``known`` of each image of ``given`` that ``known`` has.

    Images are found by file name, with a warning, where ids and names contradict each other: one
    id with two names, or one name with two ids.

    Args:
        known: the truth, or what else the ids must be of.
        given: predictions, labels and the like.
        match: one of ``MATCHES``.

    Raises:
        ValueError: names and ids contradict each other, and names cannot tell images apart or have
            none in common; two images of ``given`` are one; an unknown ``match``.
    """
    if match not in MATCHES:
        raise ValueError(f"match={match!r}; choose one of {', '.join(MATCHES)}")
    if match == "id":
        return {key: key for key in given.names if key in known.names}
    if match == "auto" and not any(_contradictions(known, given)):
        return _by_id(known, given)
    return _by_name(known, given, match)


def same_image(known: ImageNames, given: ImageNames, image_id: Any) -> bool:
    """Whether nothing speaks against ``image_id`` being one image on both sides."""
    ours, theirs = known.names.get(image_id), given.names.get(image_id)
    if not ours or not theirs or ours == theirs:
        return True
    (stem, path, _), (other_stem, other_path, _) = name_keys(ours), name_keys(theirs)
    if stem == other_stem:
        nested = f"/{path}".endswith(f"/{other_path}") or f"/{other_path}".endswith(f"/{path}")
        return nested or (known.unique(0) and given.unique(0))
    return (known.indirect or given.indirect) and not _elsewhere(known, theirs)


def _contradictions(known: ImageNames, given: ImageNames) -> Iterable[Any]:
    """The ids of ``given`` whose names ``known`` has elsewhere, or not of this id."""
    for image_id, name in given.names.items():
        if _counterpart(known, image_id) is None:
            wrong = bool(name) and _elsewhere(known, name)
        else:
            wrong = not same_image(known, given, image_id)
        if wrong:
            yield image_id


def _elsewhere(known: ImageNames, name: str | None) -> bool:
    return bool(name) and name_keys(name or "")[0] in known.by_key[0]


def _counterpart(known: ImageNames, image_id: Any) -> Any:
    """The id in ``known`` that is ``image_id``, or is it as text or as a number; None: none."""
    if image_id in known.names:
        return image_id
    if isinstance(image_id, int):
        other: Any = str(image_id)
    else:
        other = int(image_id) if image_id.isascii() and image_id.isdecimal() else None
        other = other if str(other) == image_id else None
    return other if other in known.names else None


def _by_id(known: ImageNames, given: ImageNames) -> dict[Any, Any]:
    found = {key: _counterpart(known, key) for key in given.names}
    joined = {key: other for key, other in found.items() if other is not None}
    turned = sum(type(key) is not type(other) for key, other in joined.items())
    if turned:
        logger.warning(
            "%d image ids are text in one of %s and %s and numbers in the other: taken as the same",
            turned, known.origin, given.origin,
        )  # fmt: skip
    _check_apart(joined, known, given)
    return joined


def _by_name(known: ImageNames, given: ImageNames, match: str) -> dict[Any, Any]:
    """Joined by the shortest of the names that tell all images apart on both sides."""
    first = next(iter(_contradictions(known, given)), None)
    complaint = f"{given.origin} and {known.origin} cannot be joined by file name"
    if first is not None and match == "auto":
        complaint = f"{given.origin} and {known.origin} do not mean the same images by their ids"
        ours, theirs = known.names.get(first), given.names.get(first)
        complaint += f" (image {shown(first)} is {shown(theirs)} in the former, "
        complaint += f"{shown(ours) if ours else 'not there'} in the latter)"
    for side in (given, known):
        nameless = [key for key, name in side.names.items() if not name]
        if nameless:
            raise ValueError(
                f"{complaint}: {side.origin} has no file_name of image {shown(nameless[0])}: add "
                "it, or make the files again with the same ids"
            )
    level = next((k for k in range(3) if known.unique(k) and given.unique(k)), None)
    if level is None:
        side = given if known.unique(2) else known
        twice = next(ids for ids in side.by_key[2].values() if len(ids) > 1)
        raise ValueError(
            f"{complaint}: {side.origin} names {shown(side.names[twice[0]])} twice (ids "
            f"{shown(twice[0])} and {shown(twice[1])}): give every image its own file_name"
        )
    joined = {
        ids[0]: known.by_key[level][key][0]
        for key, ids in given.by_key[level].items()
        if key in known.by_key[level]
    }
    if given.names and not joined:
        raise ValueError(
            f"{complaint}, and no file name is in both: are they of one data set? Make the files "
            "again with the same ids and names"
        )
    moved = sum(key != other for key, other in joined.items())
    if match == "auto":
        logger.warning(
            "%s: %d of %d images are found by file name, as their ids differ", complaint,
            moved, len(joined),
        )  # fmt: skip
    return joined


def _check_apart(joined: Mapping[Any, Any], known: ImageNames, given: ImageNames) -> None:
    """Raise if two images of ``given`` are one of ``known``, as 1 and "1" would be."""
    if len(set(joined.values())) < len(joined):
        seen: dict[Any, Any] = {}
        for key, other in joined.items():
            if other in seen:
                raise ValueError(
                    f"{given.origin}: the images {seen[other]!r} and {key!r} are both "
                    f"{other!r} in {known.origin}: give every image one id"
                )
            seen[other] = key
