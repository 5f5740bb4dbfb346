#!/usr/bin/env python3
"""Link the images that a COCO file lists into a folder of their own.

For splits that are a part of a folder, as VOC's val: jobs take all images of --images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import run
from trace_d2.data.prepare.links import link_images


def main(arguments: list[str] | None = None) -> int:
    """Link them; 0 on success, 2 if something is missing or damaged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("listing", type=Path, metavar="JSON", help="COCO file, of its images")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="where they are")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="of the links")
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        count = link_images(args.listing, args.images, args.output)
        yield f"{count} images in {args.output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
