"""Which files of two folders are the truth and the predictions of semantic maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from trace_d2.io.hints import nearest_path
from trace_d2.io.listing import some
from trace_d2.io.paths import name_keys
from trace_d2.io.score_stacks import SCORE_SUFFIXES
from trace_d2.io.semantic_rules import TRUTH_ENDS, SemanticRule, TruthFiles
from trace_d2.io.subfolders import counterparts, files_by_stem, unclear

SUBFOLDER = "semantic"
"""Where ``tools/refine_semantic.py`` puts its maps in its output folder."""


def check_folder(folder: str | Path, what: str) -> Path:
    """``folder``, of ``what`` ("truth"); a NotADirectoryError if it is none."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(
            f"no folder of {what} at {folder}{nearest_path(folder)}: correct the path"
        )
    return Path(folder)


def truth_files(
    folder: str | Path, rule: SemanticRule, whole: bool = True
) -> tuple[TruthFiles, dict[str, Path]]:
    """How the truth in ``folder`` is written, and its maps by stem, less the end of the way.

    Args:
        whole: all of the folder counts, so that no image may have maps of another way alone.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it has no such map, two of one stem, or the way was left half-way.
    """
    files = _maps(folder, "truth")
    ways = [(way, own) for way in rule.truth if (own := _of_end(files, way.end))]
    if not ways:
        ends = " or ".join(f"<stem>{way.end}.png" for way in rule.truth)
        raise ValueError(f"no truth {ends} in {folder} or below it: correct the path")
    (way, chosen), *others = ways
    for other, own in others if whole else ():
        bare = [stem for stem in own if not (stem.endswith(TRUTH_ENDS) or _is_of(stem, chosen))]
        if bare:
            raise ValueError(
                f"{folder} has {len(chosen)} maps <stem>{way.end}.png, which are the truth, but "
                f"{len(bare)} images have <stem>{other.end}.png alone ({some(bare)}): was a "
                f"preparation interrupted? Run it again, or remove the maps <stem>{way.end}.png"
            )
    return way, chosen


def _is_of(stem: str, images: Collection[str]) -> bool:
    """Whether a map ``stem`` is one of ``images``, or of one, as ``<image>_color`` is."""
    while stem not in images:
        stem, underscore, _ = stem.rpartition("_")
        if not underscore:
            return False
    return True


def _of_end(files: Mapping[str, Path], end: str) -> dict[str, Path]:
    return {stem.removesuffix(end): path for stem, path in files.items() if stem.endswith(end)}


def _maps(folder: str | Path, what: str, endings: tuple[str, ...] = (".png",)) -> dict[str, Path]:
    """Files of a folder by stem."""
    folder = check_folder(folder, what)
    files = files_by_stem(folder, endings)
    for first, *others in files.values():
        if others:
            raise ValueError(f"both {first} and {others[0]} are in {folder}: remove one of them")
    return {stem: folder / names[0] for stem, names in files.items()}


def listed(
    truth: Mapping[str, Path], stems: Collection[str], rule: SemanticRule, folder: str | Path
) -> dict[str, Path]:
    """Those of the truth that a list names, by their images or by maps of the truth."""
    ends = [rule.image_end, *(way.end for way in rule.truth)]
    wanted = [_without_end(name_keys(stem)[1], ends) for stem in stems]
    own = counterparts(wanted, truth)
    absent = [stem for stem in wanted if stem not in own]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(wanted)} images of the list have no truth in {folder} "
            f"({some(absent)}): give the list of these files"
        )
    return {stem: truth[stem] for stem in own.values()}


def _without_end(stem: str, ends: Sequence[str]) -> str:
    """``stem`` less the longest of ``ends`` that it has."""
    return stem.removesuffix(max(filter(stem.endswith, ends), key=len, default=""))


def predictions(
    folder: str | Path, truth: Mapping[str, Path], way: TruthFiles, rule: SemanticRule
) -> dict[str, Path]:
    """The prediction of each stem of the truth that has one."""
    inner = Path(folder) / SUBFOLDER
    folder = inner if inner.is_dir() else Path(folder)
    given: dict[str, Path] = {}
    for whole, path in _maps(folder, "predictions", (".png", *SCORE_SUFFIXES)).items():
        stem = whole.removesuffix(rule.image_end).removesuffix(way.end)
        if given.setdefault(stem, path) != path:
            raise ValueError(f"{given[stem]} and {path} are of one image: remove one of them")
    pairs = counterparts(truth, given)
    if not pairs:
        hint = unclear(list(truth), list(given))
        raise ValueError(
            f"no prediction <stem>.png in {folder} for any of {len(truth)} maps of the truth, such "
            f"as {next(iter(truth.values()))}{f': {hint}' if hint else ''}: name predictions after "
            "the images"
        )
    return {stem: given[other] for stem, other in pairs.items()}


def check_scored(paths: Collection[Path], threshold: float | None) -> None:
    """Raise a ValueError if there is a threshold of scores, but ``paths`` are maps."""
    maps = [path for path in paths if path.suffix.lower() not in SCORE_SUFFIXES]
    if maps and threshold is not None:
        raise ValueError(
            f"{len(maps)} of {len(paths)} predictions are maps, such as {maps[0]}, in which 255 is "
            "the background: leave its threshold out, or give scores"
        )


def check_missing(absent: Sequence[str], total: int, policy: str, origin: str) -> None:
    """Raise a ValueError if images are ``absent`` from ``origin`` and that is an ``"error"``."""
    if absent and policy == "error":
        raise ValueError(
            f"{origin} has no prediction for {len(absent)} of {total} images ({some(absent)}): "
            'make them, name the images that count by a list, or choose missing "miss" (all their '
            'pixels count as wrong) or "skip" (leave the images out)'
        )
