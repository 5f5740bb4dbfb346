"""Trials: one file is spoiled, its reader runs, and what it made of the file is judged."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .mutations import Spoiled, spoil
from .readers import Reader, Reading

TRACEBACK, SILENT, COMPLAINT = "traceback", "silent change", "message"
"""Kinds of faults; a message is one that lacks the name of the file or what to do."""

_MOST_SECONDS = 20
_REMEDY = re.compile(
    r"\b(add|allow|answer|ask|choose|convert|copy|correct|delete|divide|download|drop|export|free|"
    r"get|give|have|install|is it|leave|list|look|make|mend|move|name|number|put|raise|register|"
    r"remove|rename|repair|replace|restore|run|save|scale|score|see|set|start|take|train|turn|"
    r"unpack|use|wait|write)\b"
)


class _TooSlowError(BaseException):
    """No answer in time; no handler of exceptions takes it for a fault of the file."""


@dataclass(frozen=True)
class Fault:
    """A file that a reader did not answer as it should.

    Attributes:
        kind: one of the kinds above.
        text: the traceback, the results that differ, or the message.
    """

    reader: str
    spoiled: Spoiled
    kind: str
    text: str

    @property
    def title(self) -> str:
        """One line for lists."""
        one = self.spoiled
        return f"{self.kind}: {self.reader}: {one.file}: {one.kind} at {one.place}"


class Bench:
    """A reader with its sound files in a folder of its own, which is as before after each trial."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with contextlib.redirect_stdout(io.StringIO()):
            reader.make(folder)
        paths = list(folder.rglob("*"))
        self._sound = {path: _content(path) for path in paths if path.is_file()}
        self._folders = {path for path in paths if path.is_dir()}
        self.files = [
            str(path.relative_to(folder))
            for pattern in reader.spoiled
            for path in sorted(folder.glob(pattern))
            if path.stat().st_size
        ]
        self.undisturbed = self._read()
        if self.undisturbed.status != 0 or self.undisturbed.error:
            raise RuntimeError(f"{reader.name} refuses its sound files: {self.undisturbed}")

    def draw(self, seed: int, number: int) -> Spoiled:
        """The spoiled file of that number."""
        rng = np.random.default_rng([seed, zlib.crc32(self.reader.name.encode()), number])
        file = self.files[int(rng.integers(len(self.files)))]
        return spoil(rng, file, self._sound[self.folder / file][0])

    def judge(self, spoiled: Spoiled) -> Fault | None:
        """Let the reader read ``spoiled``; the fault that it shows, if any."""
        found = _fault(self.answer(spoiled), self.undisturbed, spoiled)
        return Fault(self.reader.name, spoiled, *found) if found else None

    def answer(self, spoiled: Spoiled) -> Reading:
        """What the reader makes of ``spoiled``."""
        (self.folder / spoiled.file).write_bytes(spoiled.data)
        try:
            return self._read()
        finally:
            self._sound_again(spoiled.file)

    def _read(self) -> Reading:
        try:
            with _limited(_MOST_SECONDS):
                return self.reader.read(self.folder)
        except _TooSlowError:
            return Reading(None, None, "", f"no answer within {_MOST_SECONDS} s")
        finally:
            self._sound_again()

    def _sound_again(self, spoiled: str = "") -> None:
        """Put files back that were changed, and delete those that are new."""
        for path in sorted(self.folder.rglob("*"), reverse=True):  # folders after their files
            if path.is_dir() and path not in self._folders:
                path.rmdir()
            elif not path.is_dir() and path not in self._sound:
                path.unlink()
        for path, (content, stamp) in self._sound.items():
            changed = str(path.relative_to(self.folder)) == spoiled
            if changed or not path.is_file() or _stamp(path) != stamp:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                _set_stamp(path, stamp)


def trials(
    benches: Sequence[Bench], seed: int, first: int, count: int
) -> Iterator[tuple[Bench, Spoiled, Fault | None]]:
    """Trials ``first`` to ``first + count`` of each reader, in turns."""
    for number in range(first, first + count):
        for bench in benches:
            spoiled = bench.draw(seed, number)
            yield bench, spoiled, bench.judge(spoiled)


def keep(fault: Fault, folder: Path) -> Path:
    """Write the file of ``fault`` and what was done to it below ``folder``; where it is now."""
    one = fault.spoiled
    mark = f"{zlib.crc32(one.data + one.file.encode()):08x}"
    own = folder / f"{fault.reader}-{fault.kind.replace(' ', '-')}-{mark}"
    own.mkdir(parents=True, exist_ok=True)
    (own / "spoiled").write_bytes(one.data)
    described = {"reader": fault.reader, "file": one.file, "kind": one.kind, "place": one.place}
    (own / "case.json").write_text(json.dumps({**described, "strict": one.strict}, indent=1))
    (own / "fault.txt").write_text(f"{fault.title}\n\n{fault.text}\n", errors="replace")
    return own


def kept(folder: Path) -> tuple[str, Spoiled]:
    """The reader and the spoiled file that ``keep`` wrote to ``folder``."""
    case = json.loads((folder / "case.json").read_text())
    data = (folder / "spoiled").read_bytes()
    one = Spoiled(case["file"], case["kind"], case["place"], data, case["strict"])
    return case["reader"], one


def _fault(reading: Reading, undisturbed: Reading, spoiled: Spoiled) -> tuple[str, str] | None:
    if reading.error or reading.status not in (0, 2, 3):
        return TRACEBACK, reading.error or f"exit status {reading.status}: {reading.words}"
    if reading.status == 0:
        silent = reading.words == undisturbed.words and spoiled.strict
        if silent and _comparable(reading.results) != _comparable(undisturbed.results):
            text = f"{_difference(undisturbed.results, reading.results)}\n\n{reading.words}"
            return SILENT, text
        return None
    new = [line for line in reading.words.splitlines() if line not in undisturbed.words]
    text = "\n".join(new)
    name = Path(spoiled.file).name
    stem = name.partition(".")[0]
    folder = spoiled.file.partition("/")[0]  # of a job, whose files are named as a whole
    named = name in text or (len(stem) > 1 and stem in text) or f"/{folder} " in text
    if not named or not _REMEDY.search(text):
        return COMPLAINT, text
    return None


def _comparable(results: Any) -> str:
    text = json.dumps(results, sort_keys=True)
    return text.replace(": false", ": 0").replace(": true", ": 1")


def _difference(before: Any, after: Any) -> str:
    """Where two results part, short."""
    one, other = _comparable(before), _comparable(after)
    at = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))  # noqa: B905
    start = max(at - 120, 0)
    return f"before: {one[start : at + 80]}\nafter:  {other[start : at + 80]}"


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _content(path: Path) -> tuple[bytes, tuple[int, int]]:
    return path.read_bytes(), _stamp(path)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _set_stamp(path: Path, stamp: tuple[int, int]) -> None:
    os.utime(path, ns=(stamp[1], stamp[1]))
