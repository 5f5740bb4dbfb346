#!/usr/bin/env python3
"""Write what perfect models would say of a COCO panoptic data set: semantic masks and edges.

OUTPUT receives semantic/, edges/ and categories.json, for make_pseudo_panoptic.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trace_d2.terminal import say


def main(arguments: list[str] | None = None) -> int:
    """Write the files; 0 on success, 2 on bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--truth-json", type=Path, required=True, help="panoptic JSON")
    add("--truth-dir", type=Path, required=True, help="its PNG files")
    add("--output", type=Path, required=True)
    add("--gaps", type=float, default=0.0, metavar="SHARE", help="share of edge pixels to remove")
    args = parser.parse_args(arguments)
    from trace_d2.io.paths import check_output
    from trace_d2.scenes.oracle import write_oracle  # --help loads nothing

    try:
        check_output(args.output / "categories.json", truth_json=args.truth_json)
        for folder in ("semantic", "edges"):
            check_output(args.output / folder, truth_dir=args.truth_dir)
        count = write_oracle(args.truth_json, args.truth_dir, args.output, args.gaps)
    except (ValueError, OSError) as error:
        say(f"make_oracle: {error}", error=True)
        return 2
    say(f"oracle masks and edges of {count} images in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
