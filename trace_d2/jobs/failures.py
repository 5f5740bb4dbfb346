"""Failures by kind: the reasons of records, without what differs from image to image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trace_d2.jobs.journal import Record

_MOST_KINDS = 1000  # so that memory stays bounded, whatever is in a journal
_MOST_CHARACTERS = 200  # of a kind
_MOST_READ = 1000  # characters of a reason: it may be anything
_OTHERS = "other reasons"

_NAME = "\N{HORIZONTAL ELLIPSIS}"
_APART = r"\s(:,;'\""  # what no name of a file goes beyond, unless it is known
_FILE = re.compile(rf"(?<![^{_APART}])[^{_APART}]+\.[A-Za-z]\w*")  # tried once a word: linear
_NAMED = re.compile(rf"(?:[a-z][\w+.-]*://)?[^{_APART}]*{_NAME}(?:\.[A-Za-z]\w*)?")
_PATH = re.compile(
    r"(?<![\w/])(?:[a-z][\w+.-]*://|~?/|[A-Za-z]:\\)[^\s:,;()'\"]*[^\s:,;()'\".]"  # whole
    r"|(?<![\w/])[\w.-]+(?:/[\w.-]+)+\.[A-Za-z]\w{0,4}\b"  # from where the job began
)
_SIZE = re.compile(r"\b\d+ ?x ?\d+\b")
_NUMBER = re.compile(r"(?<![A-Za-z_\d])(?:0x[\da-fA-F]+|-?\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?)")
_LIST = re.compile(r"\[N(?:, ?N)+\]")


@dataclass(frozen=True)
class Kind:
    """Records with alike reasons.

    Attributes:
        text: the reason, with ... for names and paths and N for numbers, by which they are alike.
        count: how many.
        example: the file name of one of the images; empty where none is known.
        reason: of that image, one line.
    """

    text: str
    count: int
    example: str = ""
    reason: str = ""

    def __str__(self) -> str:
        """One line: the example as it stands, and how many are like it; else the text."""
        if not self.example:
            return self.text
        more = f" (and {self.count - 1:,} like it)" if self.count > 1 else ""
        return f"{self.example}: {self.reason}{more}"


class Kinds:
    """Numbers for kinds of reasons, from 0 on, in the order in which they come.

    Args:
        settings: of the job: the folders that they name are left out of reasons.

    Attributes:
        texts: of the kinds.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        paths = {value.rstrip("/") for value in settings.values() if isinstance(value, str)}
        self._folders = sorted((path for path in paths if "/" in path), key=len, reverse=True)
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        return list(self._numbers)

    def number(self, record: Record) -> int:
        """The number of the kind of ``record``'s reason."""
        text = kind_of(record, self._folders)
        if text not in self._numbers and len(self._numbers) >= _MOST_KINDS:
            text = _OTHERS
        return self._numbers.setdefault(text, len(self._numbers))

    def kind(self, number: int, count: int, example: Record | None) -> Kind:
        """The kind of this number, of ``count`` records, one of which is ``example``."""
        text = self.texts[number]
        if example is None:
            return Kind(text, count)
        return Kind(text, count, example.file_name, gist(example.reason))


def count_kinds(records: Iterable[Record], settings: Mapping[str, Any]) -> list[Kind]:
    """Kinds of the reasons of ``records``, the most frequent first, each with its first record."""
    kinds, counts, examples = Kinds(settings), Counter[int](), dict[int, Record]()
    for record in records:
        number = kinds.number(record)
        counts[number] += 1
        examples.setdefault(number, record)
    return [kinds.kind(number, count, examples[number]) for number, count in counts.most_common()]


def kind_of(record: Record, folders: Iterable[str] = ()) -> str:
    """The reason of ``record`` in one line, without paths, names of files, and numbers.

    Args:
        record: failed or skipped.
        folders: paths that are left out also where they have spaces.
    """
    text = _without_names(record, folders)
    for folder in folders:
        text = text.replace(folder, _NAME)
    text = _PATH.sub(_NAME, text)
    text = _LIST.sub("[N]", _NUMBER.sub("N", _SIZE.sub("NxN", text)))
    return text[:_MOST_CHARACTERS]


def _without_names(record: Record, folders: Iterable[str]) -> str:
    """The reason of ``record`` in one line, without names of its own files."""
    text = gist(record.reason)[:_MOST_READ] or "no reason"
    for folder in folders:
        text = text.replace(f"{folder}/", "/")
    text = text.replace(record.file_name, _NAME)
    last = record.stem.rpartition("/")[2]
    for stem in (record.stem, last):
        if re.search(f"[{_APART}]", stem):
            text = text.replace(stem, _NAME)

    def named(found: re.Match[str]) -> str:
        own = found[0].rpartition("/")[2].rpartition(".")[0] == last
        return _NAME if own else found[0]

    text = _FILE.sub(named, text)
    if _NAME in text:
        text = _NAMED.sub(_NAME, text)
    return " ".join(text.split())


def gist(reason: str) -> str:
    """The line of ``reason`` that says what is wrong: of a traceback, the first of its error."""
    lines = reason.strip().splitlines()
    frames = [rank for rank, line in enumerate(lines) if line.startswith('  File "')]
    if frames:
        lines = [line for line in lines[frames[-1] :] if not line.startswith(" ")] or lines[-1:]
    return lines[0].strip() if lines else ""
