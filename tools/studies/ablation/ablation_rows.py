"""What the study compares, and what the paper says of it: tables of rows, no work.

A row has a key; the tables of the report name rows by key, so that one row may stand in several.
``REMARKS`` holds the sentences about causes that no number can write by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

STRIDES = (25, 50, 100, 250)
FINEST_STRIDE = 25
"""All other strides are multiples of it, so that one trajectory serves them all."""
STRIDE = 100
TIMESTEPS = tuple(range(0, 1000, STRIDE))
DIVERGENCE_NAMES = ("kl", "jsd", "l1", "l2", "entropy", "wasserstein")
BLOCKS = 6
"""Self-attention blocks of trace-tiny."""
DECODER = "relative"
"""Of the students that do not compare decoders."""
DEFAULT_LABELS = "upper_band"
"""Of the students that do not compare pseudo edges, as in configs/edges/trace_tiny_distill.yaml."""


@dataclass(frozen=True)
class Teacher:
    """Edges by emergence point and ABDiv.

    Attributes:
        metric, stride: of the search for t*.
        timestep: a fixed one; -1 searches.
        abdiv: the divergence between neighbours.
        neighbourhood: 4 or 8.
        threshold: what falls on 0.5 of the edges, "mean_std" or "mean".
        blocks: attention blocks that the edges are read of; all where empty. The search reads all.
    """

    metric: str = "kl"
    stride: int = STRIDE
    timestep: int = -1
    abdiv: str = "kl"
    neighbourhood: int = 4
    threshold: str = "mean_std"
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Student:
    """A distilled student.

    Attributes:
        decoder: its name.
        reconstruction: whether the reconstruction term is on, as the config weighs it.
        labels: of the pseudo edges, a name in ``LABELS``.
        whole: learns from whole images instead of crops, as decoders must that belong to one grid;
            a quarter of them an iteration, so that it sees as many tokens.
    """

    decoder: str = DECODER
    reconstruction: bool = True
    labels: str = DEFAULT_LABELS
    whole: bool = False


BLOCK_SETS: dict[str, tuple[int, ...]] = {
    **{f"block {block}": (block,) for block in range(BLOCKS)},
    "first half": tuple(range(BLOCKS // 2)),
    "last half": tuple(range(BLOCKS // 2, BLOCKS)),
}

TEACHERS: dict[str, Teacher] = {
    "teacher": Teacher(),
    **{f"t {t}": Teacher(timestep=t) for t in TIMESTEPS},
    **{f"iep {name}": Teacher(metric=name) for name in DIVERGENCE_NAMES if name != "kl"},
    **{f"abdiv {name}": Teacher(abdiv=name) for name in DIVERGENCE_NAMES if name != "kl"},
    **{f"stride {stride}": Teacher(stride=stride) for stride in STRIDES if stride != STRIDE},
    "neighbours 8": Teacher(neighbourhood=8),
    "threshold mean": Teacher(threshold="mean"),
    **{f"{name}, t 0": Teacher(timestep=0, blocks=own) for name, own in BLOCK_SETS.items()},
    **{f"{name}, t*": Teacher(blocks=own) for name, own in BLOCK_SETS.items()},
}

BASELINES = ("none", "canny", "sobel", "gradient", "oracle")

LABELS: dict[str, Teacher] = {
    DEFAULT_LABELS: Teacher(threshold="upper_band"),
    "mean_std": Teacher(),
    "mean": Teacher(threshold="mean"),
    "t 0": Teacher(timestep=0, threshold="upper_band"),
}
"""The teachers whose pseudo edges students learn."""

STUDENTS: dict[str, Student] = {
    "student": Student(),
    "student, no reconstruction": Student(reconstruction=False),
    "student, mean_std": Student(labels="mean_std"),
    "student, mean": Student(labels="mean"),
    "student, cnn": Student(decoder="cnn", whole=True),
    "student, whole": Student(whole=True),
    "student, unet": Student(decoder="unet", whole=True),
    "student, mask2former": Student(decoder="mask2former", whole=True),
    "student, t 0": Student(labels="t 0"),
}
"""The most telling first: they are trained in this order."""

SHIPPED = "shipped"
"""The row of the student that is given, not trained here."""


@dataclass(frozen=True)
class Entry:
    """A line of a table: its name, its row and what the paper says."""

    name: str
    row: str
    paper: str = ""


@dataclass(frozen=True)
class Contrast:
    """Two rows whose difference the text states.

    Attributes:
        name: what changes from ``before`` to ``after``.
        before, after: keys of rows.
        paper: AP^mk of the two in the paper; None where it gives no figures.
        said: the paper's statement without figures.
    """

    name: str
    before: str
    after: str
    paper: tuple[float, float] | None = None
    said: str = ""


@dataclass(frozen=True)
class Section:
    """A table of the report and the differences that the text below it states.

    Attributes:
        key: in ``REMARKS``.
        title: of the table.
        entries: its lines.
        contrasts: what the text states.
        text: below the table.
        divergence: "iep_ms" or "abdiv_ms": a last column with the time of these alone.
    """

    key: str
    title: str
    entries: tuple[Entry, ...]
    contrasts: tuple[Contrast, ...] = ()
    text: str = ""
    divergence: str = ""


def _divergence_entries(kind: str, notes: dict[str, str]) -> Iterable[Entry]:
    names = {"kl": "KL", "jsd": "JSD", "l1": "L1", "l2": "L2"}
    for name in DIVERGENCE_NAMES:
        row = "teacher" if name == "kl" else f"{kind} {name}"
        yield Entry(names.get(name, name.capitalize()), row, notes.get(name, ""))


def _block_entries(place: str) -> Iterable[Entry]:
    for name in BLOCK_SETS:
        yield Entry(f"{name}, {place.replace('t 0', 't = 0')}", f"{name}, {place}")
    everything = "t 0" if place == "t 0" else "teacher"
    yield Entry(f"all, {place.replace('t 0', 't = 0')}", everything)


SECTIONS: tuple[Section, ...] = (
    Section(
        "parts",
        "Which part does what",
        (
            Entry("no edges", "none", "AP^mk 3.1"),
            Entry("ABDiv at t = 0, the clean end", "t 0", "AP^mk 3.2 at a semantic step"),
            Entry("ABDiv at t = 900, the noisy end", "t 900"),
            Entry("IEP + ABDiv", "teacher", "AP^mk 4.8"),
            Entry("+ distillation", "student", "AP^mk 8.2; ODS 88.9, OIS 89.9, clDice 82.6"),
            Entry("+ distillation, the student that ships", SHIPPED),
            Entry("oracle edges", "oracle"),
        ),
        (
            Contrast("ABDiv at t = 0 over no edges", "none", "t 0", (3.1, 3.2)),
            Contrast("the searched timestep over t = 0", "t 0", "teacher", (3.2, 4.8)),
            Contrast("distillation over its teacher", "teacher", "student", (4.8, 8.2)),
            Contrast("the shipped student over the teacher", "teacher", SHIPPED, (4.8, 8.2)),
        ),
        "The paper's figures are of COCO 2014 with ProMerge's masks and SD3.5-Large (edges: COCO "
        "2014 val). It compares with one semantic step, which is not named here; both ends of the "
        "trajectory are shown.",
    ),
    Section(
        "timesteps",
        "The timestep",
        (
            *(Entry(f"t = {t}", f"t {t}") for t in TIMESTEPS),
            Entry("searched (IEP)", "teacher", "t* at 30 to 60 % of the trajectory"),
        ),
        (Contrast("t = 500 over t = 0", "t 0", "t 500", said="edges are best around t*"),),
    ),
    Section(
        "iep",
        "The divergence that finds the timestep",
        tuple(
            _divergence_entries(
                "iep",
                {
                    "kl": "AP^mk 9.4, 3,082 ms",
                    "jsd": "AP^mk 9.4, 5,120 ms",
                    "l1": "AP^mk 3.5, 924 ms",
                    "l2": "AP^mk 3.8, 1,232 ms",
                    "entropy": "AP^mk 5.1",
                    "wasserstein": "AP^mk 6.2",
                },
            )
        ),
        (
            Contrast("JSD over KL", "teacher", "iep jsd", (9.4, 9.4)),
            Contrast("L1 over KL", "teacher", "iep l1", (9.4, 3.5)),
            Contrast("L2 over KL", "teacher", "iep l2", (9.4, 3.8)),
            Contrast("entropy over KL", "teacher", "iep entropy", (9.4, 5.1)),
            Contrast("Wasserstein over KL", "teacher", "iep wasserstein", (9.4, 6.2)),
        ),
        "ABDiv with KL in all rows. The paper's figures are of VOC, its times of an A100. The last "
        "column is the nine divergences alone, without the ten forward passes.",
        divergence="iep_ms",
    ),
    Section(
        "abdiv",
        "The divergence between neighbours",
        tuple(_divergence_entries("abdiv", {"kl": "600 ms"})),
        tuple(
            Contrast(f"{name} over KL", "teacher", f"abdiv {name.lower()}")
            for name in ("JSD", "L1", "L2", "Entropy", "Wasserstein")
        ),
        "The timestep is found with KL in all rows. The last column is ABDiv alone.",
        divergence="abdiv_ms",
    ),
    Section(
        "stride",
        "Stride, neighbours and threshold",
        (
            Entry("stride 25", "stride 25"),
            Entry("stride 50", "stride 50"),
            Entry("stride 100, 4 neighbours, mean + deviation", "teacher", "the default"),
            Entry("stride 250", "stride 250"),
            Entry("8 neighbours", "neighbours 8", "twice the cost of ABDiv"),
            Entry("threshold at the mean", "threshold mean"),
        ),
        (
            Contrast("stride 25 over 100", "teacher", "stride 25"),
            Contrast("stride 250 over 100", "teacher", "stride 250"),
            Contrast("8 neighbours over 4", "teacher", "neighbours 8"),
            Contrast("the mean over mean + deviation", "teacher", "threshold mean"),
        ),
        "A threshold only says what falls on 0.5 of the strengths. ODS, OIS and clDice choose "
        "their own, so that only the clipping of strong edges is left to tell the two apart.",
    ),
    Section(
        "blocks",
        "Which attention blocks",
        (*_block_entries("t 0"), *_block_entries("t*")),
        (
            Contrast("the last half over all, t = 0", "t 0", "last half, t 0"),
            Contrast("the first half over all, t = 0", "t 0", "first half, t 0"),
        ),
        "t* is found with all blocks in all rows; the time of single blocks there was not "
        "measured. The paper averages all blocks.",
    ),
    Section(
        "students",
        "The student",
        (
            Entry("relative decoder, on crops", "student"),
            Entry("relative decoder, on whole images", "student, whole"),
            Entry("cnn decoder, on whole images", "student, cnn", "AP^mk 8.2"),
            Entry("unet decoder, on whole images", "student, unet", "AP^mk 8.2"),
            Entry("mask2former decoder, on whole images", "student, mask2former", "AP^mk 8.4"),
            Entry(
                "no reconstruction", "student, no reconstruction", "AP^mk 8.9, with it 9.4 (VOC)"
            ),
            Entry(
                "pseudo edges: none below the mean - deviation", "student, mean_std", "its default"
            ),
            Entry("pseudo edges at the mean alone", "student, mean"),
            Entry("pseudo edges of t = 0", "student, t 0"),
            Entry("the student that ships", SHIPPED),
            Entry("their teacher", "teacher"),
        ),
        (
            Contrast(
                "the reconstruction term", "student, no reconstruction", "student", (8.9, 9.4)
            ),
            Contrast("unet over cnn", "student, cnn", "student, unet", (8.2, 8.2)),
            Contrast("mask2former over cnn", "student, cnn", "student, mask2former", (8.2, 8.4)),
            Contrast("relative over cnn", "student, cnn", "student, whole"),
            Contrast("crops over whole images", "student, whole", "student"),
            Contrast(
                "none below the mean, not below mean - deviation", "student, mean_std", "student"
            ),
            Contrast("a band that is ignored over the mean alone", "student, mean", "student"),
            Contrast("labels of t = 0 over labels of t*", "student", "student, t 0"),
            Contrast("a student of t = 0 over ABDiv at t = 0", "t 0", "student, t 0"),
        ),
        "Rows differ from the first one in what they name. Its pseudo edges: edge above mean + "
        "deviation, none below the mean (upper_band). The decoders cnn, unet and mask2former "
        "belong to one grid, so that they learn from whole images instead of crops. All but the "
        "student that ships are trained for this study, briefly.",
    ),
    Section(
        "baselines",
        "Edges without a model",
        (
            Entry("Canny", "canny", "ODS 12.9, OIS 20.2, clDice 13.4"),
            Entry("Sobel", "sobel"),
            Entry("colour gradients", "gradient"),
            Entry("ABDiv at t = 0", "t 0"),
            Entry("IEP + ABDiv", "teacher"),
            Entry("the student that ships", SHIPPED, "ODS 88.9, OIS 89.9, clDice 82.6"),
        ),
        (
            Contrast("IEP + ABDiv over Canny", "canny", "teacher", said="TRACE is ahead by far"),
            Contrast("the shipped student over Canny", "canny", SHIPPED, said="ODS 12.9 -> 88.9"),
            Contrast("the shipped student over colour gradients", "gradient", SHIPPED),
        ),
        "For PQ^th and AP^mk Canny takes the threshold of its ODS on these very scenes, all others "
        "the one that they come with. The paper's figures are of COCO 2014 val.",
    ),
)

REMARKS: dict[str, tuple[str, ...]] = {
    "parts": (
        "Why the search does not pay here: the change between steps has two peaks, the first step "
        "from the clean image to a little noise, and t = 700 to 800, where edges are lost already "
        "(see the curve below). Whether a better trained backbone would show its emergence point "
        "inside the trajectory was not measured.",
        "The student is ahead of its labels. A likely cause: the noise of single maps differs from "
        "image to image, and what is left over many is the boundary. It fits that the far cleaner "
        "labels of t = 0 make no better student (see below).",
    ),
    "iep": (
        "The order follows from where a divergence puts t*. L2 takes t = 200 in 113 of the 120 "
        "scenes of three seeds, where edges are good; entropy takes t = 900 in 67; KL takes t = "
        "100 in 67 and JSD in 45.",
    ),
    "stride": (
        "Finer strides are better for a reason that is not the method's: the first step, from the "
        "clean image to a little noise, becomes the largest. t* is 25 in 119 of 120 scenes at "
        "stride 25 and 50 in all at stride 50, and at stride 250 it is 500 or 750.",
    ),
    "blocks": (
        "The average is ahead of every single block in all figures: they err in different places.",
    ),
    "students": (
        "With pseudo edges as in the paper the student answers edge everywhere: of its labels 13 % "
        "are edge, 4 % none and 83 % ignored, as ABDiv of trace-tiny has a heavy tail.",
        "cnn, unet and mask2former have learned next to nothing in so short a training (150 "
        "iterations of 2 images): they learn each place of the grid by itself, the relative one "
        "all places at once. How long they would need was not measured.",
    ),
    "baselines": (
        "Canny is far above the paper's figure: its threshold is the best one of the data set, "
        "after a blur of one pixel, and scenes are smoother than photographs.",
    ),
}
"""Section key -> sentences below its table, on causes as far as they were measured."""
