#!/usr/bin/env python3
"""The main job on procedural scenes, with five kinds of edges, measured against the truth.

Makes scenes, labels them by the command that users run, and prints PQ for: no edges, colour
gradients, the teacher of TRACE (emergence point and ABDiv of the embedded backbone), TRACE (its
distilled student, one pass) and oracle edges. A second run continues the first.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trace_d2.evaluation import PanopticQuality

# Imports stand where they are used: --help loads nothing.
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "edges" / "trace_tiny.yaml"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo"), help="default %(default)s/")
    add("--count", type=int, default=24, help="scenes; default %(default)s")
    add("--size", type=int, default=128, help="side in pixels; default 128")
    add(
        "--semantic-noise", type=float, default=0.2, metavar="LEVEL",
        help="errors of the semantic masks, 0 (none) to 1 (poor); default %(default)s",
    )  # fmt: skip
    add("--config-file", type=Path, default=CONFIG, help="the edge config")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys of the edges")
    return parser.parse_args(arguments)


def write_gradient_edges(images: Path, output: Path) -> None:
    """Colour-gradient edges of all images of a folder, as files that ``--edges`` reads."""
    from tqdm import tqdm

    from trace_d2.edges.baselines import BASELINES
    from trace_d2.io.edge_maps import write_edges
    from trace_d2.io.images import read_image

    output.mkdir(exist_ok=True)
    for path in tqdm(sorted(images.iterdir()), desc="colour gradients", unit="image"):
        target = output / f"{path.stem}.png"
        if not target.is_file():  # a file that is written again counts as a change
            write_edges(target, BASELINES["gradient"](read_image(path).pixels, path.stem).edges)


def label(scenes: Path, output: Path, options: list[str]) -> PanopticQuality:
    """Label the scenes by the command line that a user would type, and measure the labels."""
    import make_pseudo_panoptic

    from trace_d2.evaluation import panoptic_quality

    command = ["--images", f"{scenes}/images", "--semantic", f"{scenes}/semantic"]
    command += ["--categories", f"{scenes}/categories.json", "--output", str(output), *options]
    print(f"\n$ python tools/make_pseudo_panoptic.py {shlex.join(command)}", flush=True)
    status = make_pseudo_panoptic.main(command)
    if status:
        raise SystemExit(status)
    return panoptic_quality(
        scenes / "panoptic.json", scenes / "panoptic", output / "panoptic.json", output / "panoptic"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status is that of the label maker."""
    args = parse_arguments(arguments)
    from trace_d2.evaluation.tables import comparison_table
    from trace_d2.io.atomic import write_json
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    settings = SceneSettings(0, (args.size, args.size), args.semantic_noise)
    scenes = args.output / f"scenes_{args.count}_{args.size}_{args.semantic_noise:g}"
    if not (scenes / "categories.json").is_file():  # the last file that write_scenes writes
        write_scenes(scenes, args.count, settings)
    write_gradient_edges(scenes / "images", scenes / "edges_gradient")
    one = ["--workers", "1"]
    trace = ["--config-file", str(args.config_file), "--save-edges", *one, *args.opts]
    source = "MODEL.TRACE.EDGES.SOURCE"
    runs = {
        "no edges": ["--no-edges", *one],
        "colour gradients": ["--edges", f"{scenes}/edges_gradient", *one],
        "TRACE, teacher": [*trace, source, "teacher"],
        "TRACE, student": [*trace, source, "student"],
        "oracle edges": ["--edges", f"{scenes}/edges_oracle", *one],
    }
    labels = {
        name: scenes / "labels" / name.replace(",", "").replace(" ", "_").lower() for name in runs
    }
    results = {name: label(scenes, labels[name], runs[name]) for name in runs}
    write_json(scenes / "results.json", {n: r.to_dict() for n, r in results.items()}, indent=1)
    print(f"\n{args.count} scenes of {args.size} x {args.size}, {args.config_file.stem}:")
    print(comparison_table(results))
    print(f"\nlook at {labels['TRACE, student']}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
