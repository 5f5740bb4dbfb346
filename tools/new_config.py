#!/usr/bin/env python3
"""Write a training config for labels of one's own, which trains as it is.

    python tools/new_config.py LABELS [--model mask2former|mask_rcnn] [--output FILE] [--val LABELS]

LABELS is the folder that make_pseudo_panoptic.py wrote, or the JSON file of refine_masks.py or
make_self_training.py. Classes, sizes, iterations, batch and learning rate follow from the labels
and from this machine: a small model on a CPU, a ResNet-50 with the published recipe on GPUs. Every
line says why it is so, to be changed by hand where you know better.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_d2.terminal import say

if TYPE_CHECKING:
    from trace_d2.engine.config_labels import Labels
    from trace_d2.engine.new_config import Machine

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

_SMALL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
_LARGE = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
_LARGE_FROM = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/torchvision/R-50.pkl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the config and say how to go on; returns the exit status: 0 done, 2 bad input."""
    args = build_parser().parse_args(arguments)
    try:
        write_config(args)
    except (ValueError, OSError) as error:
        say(f"error: {error}", error=True)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("labels", metavar="LABELS", help="folder of labels, or COCO instances JSON")
    add(
        "--model",
        choices=("mask2former", "mask_rcnn"),
        help="default: mask2former for panoptic labels, mask_rcnn for instances",
    )
    add("--images", metavar="DIR", help="the images; default: those that LABELS were made from")
    add("--output", type=Path, metavar="FILE", help="default: LABELS' name with .yaml, here")
    add("--val", metavar="LABELS", help="labels or truth to evaluate on")
    add("--val-images", metavar="DIR", help="their images, as --images")
    add("--gpus", type=int, metavar="N", help="plan for N GPUs, 0: a CPU; default: what is here")
    add(
        "--weights",
        metavar="FILE",
        help="weights to start from: a file, an address, or none; default: ImageNet's, if they can "
        "be had",
    )
    add("--overwrite", action="store_true", help="replace FILE")
    return parser


def write_config(args: argparse.Namespace) -> None:
    """Write the config that ``args`` ask for; raises ValueError or OSError with the remedy."""
    from trace_d2.complaints import Complaints
    from trace_d2.engine import new_config as plan
    from trace_d2.engine.config_labels import alike, read_labels
    from trace_d2.io.atomic import write_bytes
    from trace_d2.io.categories import check_names

    wrong = Complaints()
    output = args.output or Path(f"{Path(args.labels).stem}.yaml")
    wrong.of(check_place, output, args.overwrite)
    labels = wrong.of(read_labels, args.labels, args.images)
    if labels:  # of before, when labels were made with two categories of one name
        wrong.of(check_names, labels.categories, args.labels)
    # What is evaluated on needs no masks.
    truth = args.val and wrong.of(read_labels, args.val, args.val_images, "--val-images", False)
    if labels and truth and not alike(labels, truth):
        wrong.say(f"{args.val} and {args.labels} have other categories: give labels of the same")
    if args.weights not in (None, "none") and "://" not in args.weights:
        wrong.of(check_file, args.weights)
    if args.gpus is not None and args.gpus < 0:
        wrong.say(f"--gpus is {args.gpus}; it must be 0 (a CPU) or more")
    wrong.end()
    model = args.model or (plan.MASK2FORMER if labels.categories else plan.MASK_RCNN)
    machine = find_machine(args.gpus)
    weights = find_weights(args.weights, small=machine.gpus == 0)
    name = plan.plain_name(output.stem)
    entries = list(plan.config_entries(labels, model, machine, weights, name, CONFIGS, truth))
    values = {entry.key: entry.value for entry in entries}
    train, predict = next_commands(output, labels.images, values["OUTPUT_DIR"], machine.gpus)
    title = (
        f"{model} for {labels.path}, written by tools/new_config.py for "
        f"{f'{machine.gpus} GPUs' if machine.gpus else 'a CPU'}.\n{train}\n{predict}"
    )
    try:
        write_bytes(output, plan.config_text(title, entries).encode())
    except OSError as error:
        raise no_place(output, error.strerror or error) from error
    report(labels, values, weights[1])
    say(f"written: {output}; look into it, then\n  {train}\n  {predict}")


def check_place(output: Path, overwrite: bool) -> None:
    """Raise unless a config may be written to ``output``."""
    if os.path.exists(output) and not overwrite:  # whose name may be too long
        raise ValueError(f"{output} is there already: give another --output, or --overwrite")
    if not output.parent.is_dir():
        raise NotADirectoryError(f"no folder {output.parent}: make it, or correct --output")
    if not os.access(output.parent, os.W_OK):
        raise no_place(output, "no permission")


def no_place(output: Path, reason: object) -> ValueError:
    """What is said where ``output`` cannot be written."""
    return ValueError(f"cannot write {output} ({reason}): choose another --output")


def check_file(weights: str) -> None:
    """Raise unless there are such weights."""
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no weights at {weights}: correct --weights, or give none")


def report(labels: Labels, values: dict[str, Any], weights: str) -> None:
    """Say what the config is about, and what may surprise."""
    from trace_d2.io.categories import describe_categories
    from trace_d2.io.listing import some

    height, width = labels.size
    say(f"{labels.count} images of about {width} x {height} in {labels.images}")
    if labels.categories:
        say(f"categories: {describe_categories(labels.categories)}")
    if labels.merged:
        say(f"note: one class is learned of instances, called object: all of {some(labels.merged)}")
    if labels.absent:
        names = ", ".join(category.name for category in labels.absent)
        say(f"note: no label shows {names}: the model cannot learn what it never sees")
    say(
        f"{values['SOLVER.MAX_ITER']} iterations of {values['SOLVER.IMS_PER_BATCH']} images; "
        f"weights: {weights}"
    )


def next_commands(output: Path, images: Path, folder: str, gpus: int) -> tuple[str, str]:
    """The commands that train by the config, and that show what the model predicts."""
    config = ["--config-file", str(output)]
    train = ["python", "tools/train_net.py", *config]
    train += ["--num-gpus", str(gpus)] if gpus > 1 else []
    predict = ["python", "tools/predict.py", *config, "--weights", f"{folder}/model_final.pth"]
    predict += ["--images", str(images), "--output", f"{folder}/predictions"]
    return shlex.join(train), shlex.join(predict)


def find_machine(gpus: int | None) -> Machine:
    """What this machine has, or what ``gpus`` says."""
    import torch

    from trace_d2.engine.new_config import Machine

    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = visible if gpus is None else gpus
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if visible else 16.0
    return Machine(number, memory)


def find_weights(given: str | None, small: bool) -> tuple[str, str]:
    """The weights to start from, empty for none, and a remark on them."""
    if given == "none":
        return "", "random, as you asked for"
    if given is not None:
        return given if "://" in given else str(Path(given).resolve()), "as you gave them"
    address = _SMALL if small else _LARGE_FROM
    missing = why_out_of_reach(address)
    if not missing:
        return _SMALL if small else _LARGE, "of ImageNet, fetched once"
    return "", (
        f"random, as ImageNet's are out of reach ({missing}): with --weights FILE of "
        f"{address.rpartition('/')[2]} it learns far more from the same labels"
    )


def why_out_of_reach(address: str) -> str:
    """Why the file at ``address`` can neither be fetched nor was fetched before; empty: it can."""
    from urllib.error import URLError
    from urllib.parse import urlparse
    from urllib.request import Request, urlopen

    from iopath.common.file_io import get_cache_dir

    parts = urlparse(address)
    if (Path(get_cache_dir()) / parts.netloc / parts.path.lstrip("/")).is_file():
        return ""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=4):
            return ""
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        return f"{parts.netloc}: {reason}"


if __name__ == "__main__":
    sys.exit(main())
