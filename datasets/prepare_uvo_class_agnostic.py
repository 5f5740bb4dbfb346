#!/usr/bin/env python3
"""Write the masks of UVO's validation frames with the one class "object".

Reads uvo/annotations/UVO_frame_val.json, else UVO_sparse_val_video.json there, and looks where the
frames are below uvo/all_UVO_frames.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.uvo import prepare_uvo


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, metavar="JSON", help="any other file of frames")
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        folder = args.root / "uvo/annotations"
        places = [folder / name for name in ("UVO_frame_val.json", "UVO_sparse_val_video.json")]
        source = args.json or next((place for place in places if place.is_file()), places[0])
        output = folder / "val_sparse_cleaned_cls_agnostic.json"
        counts = prepare_uvo(source, args.root / "uvo/all_UVO_frames", output, not args.quiet)
        yield f"{counts[0]} images with {counts[1]} instances in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
