"""Students that read the first blocks and stop, at several resolutions."""

from __future__ import annotations

from functools import partial

from gpu_checks.common import Check
from gpu_checks.models import make_student
from trace_d2.edges.detector import StudentDetector

_SIDES = (512, 768, 1024)
_BLOCKS = (4, 8, 12, 20, 30, 38)


def run(check: Check) -> None:
    """Measure."""
    name = "sd35-large"
    backbone = check.backbone(name)
    student = make_student(check, check.cfg(name), backbone)
    detector, image = StudentDetector(student), check.image()
    for side in check.size(_SIDES, (32, 64)):
        backbone.resolution = side  # the decoder "relative" reads any grid
        ready = detector.ready(image, "image")
        for blocks in check.size(_BLOCKS, (1, 3)):
            student.blocks = tuple(range(blocks))
            check.measure(
                f"{side} x {side}, blocks 0 to {blocks - 1}, ms",
                partial(check.milliseconds, partial(detector.find, [ready])),
            )
