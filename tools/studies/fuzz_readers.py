#!/usr/bin/env python3
"""Spoil files of every kind and let their readers read them: no traceback, no silent change.

    python tools/studies/fuzz_readers.py --count 2000 [--seed N] [--tool NAME ...]
    python tools/studies/fuzz_readers.py --hours 8 --keep DIR
    python tools/studies/fuzz_readers.py --repeat DIR/CASE
    python tools/studies/fuzz_readers.py --limits    # memory and time of refusals

Small sound files of every kind are spoiled one at a time: bits flipped, files cut, bytes put in,
left out or zeroed, with and without repaired checksums; values of every place of every JSON file
replaced by others of every type. Each is read in this process as its tool reads it. Faults are
tracebacks, other ids, classes or masks without a word, and messages that do not name the file or
say what to do. What fails is kept, and can be repeated.

--limits gives each reader files of 1 KB to 1 MB whose content is huge, and measures how much memory
and time it takes until they are refused, each in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzzing.readers import Reader

_TOOLS = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(_TOOLS), str(_TOOLS / "benchmarks")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials; the exit status is 1 where a reader has a fault, 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    from fuzzing.trials import Bench, keep, kept, trials  # --help loads nothing

    readers = all_readers()
    unknown = [name for name in args.tool if name not in readers]
    if unknown:
        print(f"fuzz_readers: no reader {unknown[0]}; there are {', '.join(readers)}")
        return 2
    if args.limits:
        return show_limits({name: readers[name] for name in args.tool or readers})
    with tempfile.TemporaryDirectory() as folder:
        if args.repeat:
            name, spoiled = kept(args.repeat)
            fault = Bench(readers[name], Path(folder) / name).judge(spoiled)
            print(f"{fault.title}\n\n{fault.text}" if fault else "no fault any more")
            return 1 if fault else 0
        benches = [Bench(readers[n], Path(folder) / n) for n in args.tool or readers]
        counts: Counter[str] = Counter()
        titles: Counter[str] = Counter()
        end = time.monotonic() + 3600 * args.hours
        for number in itertools.count(args.first):
            if time.monotonic() > end if args.hours else counts["tried"] >= args.count:
                break
            for _, _, fault in trials(benches, args.seed, number, 1):
                counts["tried"] += 1
                if fault:
                    counts[fault.kind] += 1
                    titles[fault.title] += 1
                    print(f"{fault.title}\n    {keep(fault, args.keep)}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if len(counts) > 1:
        print(f"the files: {args.keep}; one again: {sys.argv[0]} --repeat {args.keep}/CASE")
    return 1 if len(counts) > 1 else 0


def all_readers() -> dict[str, Reader]:
    """Every reader by its name."""
    from fuzzing.preparing import PREPARING_READERS
    from fuzzing.readers import TOOL_READERS
    from fuzzing.training import TRAINING_READERS

    every = (*TOOL_READERS, *TRAINING_READERS, *PREPARING_READERS)
    return {reader.name: reader for reader in every}


def show_limits(readers: Mapping[str, Reader]) -> int:
    """Print what refusing hostile files takes; the exit status is 1 where it is too much."""
    from fuzzing.hostile import hostile_files, refuse
    from tabulate import tabulate

    rows, exceeded = [], 0
    for hostile in hostile_files():
        if hostile.reader not in readers:
            continue
        found = refuse(hostile, readers[hostile.reader])
        exceeded += not found.held
        figures = (f"{found.size / 1e3:.0f} kB", f"{found.seconds:.2f} s", f"{found.memory >> 20}")
        mark = "" if found.held else "!"
        row = [mark, hostile.name, hostile.reader, hostile.file, *figures, found.answer[:90]]
        print("\t".join(map(str, row)), file=sys.stderr, flush=True)
        rows.append(row)
    headers = ["", "file", "reader", "in place of", "size", "time", "MiB", "answer"]
    print(tabulate(rows, headers, disable_numparse=True))
    print(f"{len(rows)} files, {exceeded} not refused within 300 MiB and 2 s")
    return 1 if exceeded else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--count", type=int, default=2000, help="files; default %(default)s")
    length.add_argument("--hours", type=float, default=0, help="as long as this")
    add("--seed", type=int, default=0, help="others spoil other places")
    add("--first", type=int, default=0, metavar="N", help="begin with the N-th of each reader")
    add("--tool", nargs="+", default=[], metavar="NAME", help="these readers only")
    keep = Path("output/fuzz_readers")
    add("--keep", type=Path, default=keep, metavar="DIR", help="what fails; default %(default)s")
    add("--repeat", type=Path, metavar="CASE", help="read a kept file once more")
    add("--limits", action="store_true", help="memory and time of refusing huge content")
    return parser


if __name__ == "__main__":
    sys.exit(main())
