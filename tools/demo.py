#!/usr/bin/env python3
"""The main job on procedural scenes, with five kinds of edges, measured against the truth.

Makes scenes, labels them by the command that users run, and prints PQ for: no edges, colour
gradients, the teacher of TRACE (emergence point and ABDiv of the embedded backbone), TRACE (its
distilled student, one pass) and oracle edges. Then it begins from bare images: masks are
discovered along the student's edges and refined, and AP and AR are printed, beside those of the
whole image as one mask, refined by the same edges. A second run continues the first.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trace_d2.evaluation import PanopticQuality
    from trace_d2.evaluation.instances import ClassAgnosticResult

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

    from trace_d2.edges.baselines import color_gradient_edges
    from trace_d2.io.edge_maps import write_edges
    from trace_d2.io.images import read_image

    output.mkdir(exist_ok=True)
    for path in tqdm(sorted(images.iterdir()), desc="colour gradients", unit="image"):
        target = output / f"{path.stem}.png"
        if not target.is_file():  # a file that is written again counts as a change
            write_edges(target, color_gradient_edges(read_image(path).pixels))


def label(scenes: Path, output: Path, options: list[str]) -> PanopticQuality:
    """Label the scenes by the command line that a user would type, and measure the labels."""
    from trace_d2.evaluation import panoptic_quality

    command = ["--semantic", f"{scenes}/semantic", "--categories", f"{scenes}/categories.json"]
    run("make_pseudo_panoptic", [*command, "--output", str(output), *options], scenes)
    return panoptic_quality(
        scenes / "panoptic.json", scenes / "panoptic", output / "panoptic.json", output / "panoptic"
    )


def discover(scenes: Path, edges: Path) -> dict[str, ClassAgnosticResult]:
    """Masks of the bare images by given edges, and the control, measured against all things."""
    from trace_d2.evaluation import class_agnostic_ap

    folder = scenes / "bare"
    folder.mkdir(exist_ok=True)
    whole, masks = folder / "whole_images.json", folder / "masks.json"
    write_whole_images(scenes, whole)
    edged = ["--edges", str(edges), "--workers", "1"]
    run("discover_masks", ["--method", "edges", "--output", str(masks), *edged], scenes)
    files = {"bare images, discovered": masks}
    for name, given in (("bare images, refined", masks), ("whole images, refined", whole)):
        files[name] = given.with_name(f"{given.stem}_refined.json")
        run("refine_masks", ["--masks", str(given), "--output", str(files[name]), *edged], scenes)
    truth = scenes / "instances.json"
    return {name: class_agnostic_ap(truth, file, ["segm"]) for name, file in files.items()}


def write_whole_images(scenes: Path, output: Path) -> None:
    """A file of masks with one an image, the whole of it: what knows nothing but the edges."""
    from trace_d2.io.atomic import write_json
    from trace_d2.io.json_files import read_json

    if output.is_file():
        return  # a file that is written again counts as a change
    images = read_json(scenes / "instances.json", "truth")["images"]
    rows = []
    for number, image in enumerate(images, start=1):
        height, width = image["height"], image["width"]
        rle = {"size": [height, width], "counts": [0, height * width]}
        rows.append({"id": number, "image_id": image["id"], "category_id": 1, "segmentation": rle})
    categories = [{"id": 1, "name": "object"}]
    write_json(output, {"images": images, "categories": categories, "annotations": rows})


def run(tool: str, options: list[str], scenes: Path) -> None:
    """Run a command line on the images of the scenes, as a user would type it."""
    command = ["--images", f"{scenes}/images", *options]
    print(f"\n$ python tools/{tool}.py {shlex.join(command)}", flush=True)
    if status := importlib.import_module(tool).main(command):
        raise SystemExit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status is that of the label maker."""
    args = parse_arguments(arguments)
    from trace_d2.evaluation.tables import comparison_table, mask_comparison_table
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
    bare = discover(scenes, labels["TRACE, student"] / "edges")
    content = {name: one.to_dict() for name, one in results.items()}
    content |= {name: one.to_dict() for name, one in bare.items()}
    write_json(scenes / "results.json", content, indent=1)
    print(f"\n{args.count} scenes of {args.size} x {args.size}, {args.config_file.stem}:")
    print(comparison_table(results))
    print("\nwithout semantic masks, by the student's edges, all things as one class:")
    print(mask_comparison_table(bare))
    print(f"\nlook at {labels['TRACE, student']}/report.html")
    print(f"and at  {scenes}/bare/masks.json.work/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
