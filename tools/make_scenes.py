#!/usr/bin/env python3
"""Write procedural scenes as a COCO panoptic data set with tag-supervised semantic masks.

The same options give the same files, on any machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from trace_d2.terminal import say


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write to")
    add("--count", type=int, default=200, help="how many scenes")
    add("--series", type=int, default=0, help="which scenes; trace-tiny was trained on series 1")
    add("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"), help="in pixels")
    add(
        "--style", choices=("textures", "still-life"), default="textures",
        help="textures: class is no colour; still-life: fruits on a table, like photographs",
    )  # fmt: skip
    add(
        "--object-area", type=float, nargs=2, metavar=("MIN", "MAX"),
        help="areas of objects as shares of the image, as 0.0005 0.005 for tiny ones",
    )  # fmt: skip
    add(
        "--semantic-noise", type=float, default=0.0, metavar="LEVEL",
        help="errors of the semantic masks, 0 (none) to 1 (poor)",
    )  # fmt: skip
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Write the data set; 0 on success, 2 on unusable arguments or an unwritable folder."""
    args = parse_arguments(arguments)
    from trace_d2.scenes.dataset import SceneSettings, write_scenes  # --help loads nothing

    area = tuple(args.object_area) if args.object_area else None
    try:
        settings = SceneSettings(
            args.series, tuple(args.size), args.semantic_noise, args.style, area
        )
        write_scenes(args.output, args.count, settings, args.workers)
    except (ValueError, OSError) as error:
        say(f"make_scenes: {error}", error=True)
        return 2
    say(f"{args.count} scenes in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
