#!/usr/bin/env python3
"""Join SA-1B's annotations, one file a photograph, to sa1b/annotations/sa1b_cls_agnostic.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.prepare.sa1b import prepare_sa1b


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=datasets_root(), help="data sets (DETECTRON2_DATASETS)"
    )
    parser.add_argument("--limit", type=int, metavar="K", help="the first K photographs only")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit is a count of 1 or more")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    args = parse_arguments(arguments)
    output = args.root / "sa1b/annotations/sa1b_cls_agnostic.json"
    try:
        images, instances = prepare_sa1b(
            args.root / "sa1b/images", output, args.limit, not args.quiet
        )
    except (ValueError, OSError) as error:
        print(f"prepare_sa1b_class_agnostic: {error}", file=sys.stderr)
        return 2
    print(f"{images} images with {instances} instances in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
