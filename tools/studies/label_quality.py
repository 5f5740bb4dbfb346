#!/usr/bin/env python3
"""What edges of every quality do to labels and to masks, on any data in COCO panoptic format.

    python tools/studies/label_quality.py --images DIR --truth-json FILE --truth-dir DIR \\
        --output DIR [--detector hed=DIR ...] [--rows none oracle soft-0.7 ...]

Each row is a kind of edges: none; those of a perfect detector, whole or with gaps; those with a
detector's false edges beside the true ones, weak to strong ("soft"), or read on a token grid as an
attention map is ("grid"); and those of each --detector as they are. Its figures:

  ODS               of the edges, against the boundaries of the truth, at 19 thresholds
  PQ^th perfect     of labels (make_pseudo_panoptic.py) from perfect semantic masks
  PQ^th noisy       of labels from masks with the errors of tag-supervised models
  AP^mk class parts of masks (refine_masks.py) that were the connected parts of each thing class
  AP^mk all parts   of masks that were the connected parts of all things

In the row "none" the masks are as they were before. OUTPUT receives results.md and results.json:
every figure over all images, and over the even and the odd ranks of their sorted file names.
Figures below those of the row "none" are bold: edges that did harm.

A row that is finished is not done again. Once the code or its defaults have changed, remove
OUTPUT/rows; OUTPUT/inputs does not depend on what is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from commands import exit_status, run_tool
from label_study import BASELINE, NO_EDGES, ROWS, StudyInputs, add_study_options, check_rows

THRESHOLDS = 19  # a fifth of BSDS's, in a fifth of the time
METRICS = ("ODS", "PQ^th perfect", "PQ^th noisy", "AP^mk class parts", "AP^mk all parts")

Parts = list[float | None]
"""A score 0..1, or None, of all images, of the even ranks and of the odd ones."""

Scores = dict[str, Parts]
"""By metric."""


def measure(study: StudyInputs, row: str) -> Scores:
    """All figures of a row, from its file if it is finished."""
    from trace_d2.io.atomic import write_json

    folder = study.output / "rows" / row
    path = folder / "figures.json"
    origin = str(study.detectors[row].resolve()) if row in study.detectors else ""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["edges"] != origin:
            raise ValueError(
                f"{folder} was measured with the edges of {content['edges']}: name this detector "
                "otherwise, or remove that folder"
            )
        return dict(content["scores"])
    folder.mkdir(parents=True, exist_ok=True)
    edges = study.edges(row)
    values = [
        score_edges(study, edges),
        *(score_labels(study, edges, folder, noisy) for noisy in (False, True)),
        *(score_masks(study, edges, folder, per_class) for per_class in (True, False)),
    ]
    scores = dict(zip(METRICS, values, strict=True))
    write_json(path, {"edges": origin, "scores": scores}, indent=1)
    return scores


def score_edges(study: StudyInputs, edges: Path | None) -> Parts:
    """ODS of each part of the images."""
    from trace_d2.evaluation import EdgeSettings, edge_scores, evaluate_edges
    from trace_d2.evaluation.edge_metrics import even_thresholds

    if edges is None:
        return [None] * len(study.parts)
    result = evaluate_edges(
        edges,
        *study.truth_files,
        EdgeSettings(tuple(even_thresholds(THRESHOLDS).tolist())),
        workers=study.workers,
        progress=True,
    )
    return _of_parts(
        study, lambda ids: edge_scores([result.counts[study.stems[key]] for key in ids]).ods
    )


def score_labels(study: StudyInputs, edges: Path | None, folder: Path, noisy: bool) -> Parts:
    """PQ^th of the labels that the command makes, of each part of the images."""
    from trace_d2.evaluation import panoptic_quality

    output = folder / ("labels_noisy" if noisy else "labels_perfect")
    inputs = ["--semantic", study.semantic(noisy), "--images-json", study.truth_json]
    inputs += ["--categories", study.categories()]
    _run("make_pseudo_panoptic", study, edges, [*inputs, "--output", output])
    labels = output / "panoptic.json", output / "panoptic"

    def quality(ids: list[Any]) -> float | None:
        things = panoptic_quality(
            *study.truth_files, *labels, workers=study.workers, missing="miss", image_ids=ids
        ).things
        return things.pq if things.n else None

    return _of_parts(study, quality)


def score_masks(study: StudyInputs, edges: Path | None, folder: Path, per_class: bool) -> Parts:
    """AP^mk of merged masks as the command refines them, of each part of the images."""
    from trace_d2.evaluation import class_agnostic_ap

    masks = study.merged_masks(per_class)
    if edges is not None:
        output = folder / f"refined_{'classes' if per_class else 'all'}.json"
        _run("refine_masks", study, edges, ["--masks", masks, "--output", output])
        masks = output
    truth = study.instances()
    return _of_parts(
        study,
        lambda ids: class_agnostic_ap(truth, masks, ["segm"], image_ids=ids).to_dict()["segm"][
            "AP"
        ],
    )


def _of_parts(study: StudyInputs, score: Callable[[list[Any]], float | None]) -> Parts:
    """``score`` of the image ids of each part; None of a part without images."""
    return [score(ids) if ids else None for ids in study.parts]


def _run(tool: str, study: StudyInputs, edges: Path | None, options: Sequence[object]) -> None:
    """A command line as a user would type it; an interrupted one is continued."""
    given: list[object] = ["--no-edges"] if edges is None else ["--edges", edges]
    words = ["--images", study.images, *options, *given, "--workers", study.workers, *study.opts]
    run_tool(tool, *words)


def report(study: StudyInputs, results: dict[str, Scores]) -> str:
    """The results as Markdown."""
    titles = study.rows
    table = halves_table({titles[n]: s for n, s in results.items()}, titles[NO_EDGES], METRICS)
    pairs = [
        (score, limit)
        for name, scores in results.items()
        if name != NO_EDGES
        for metric in METRICS
        for score, limit in zip(scores[metric], results[NO_EDGES][metric], strict=True)
        if score is not None and limit is not None
    ]
    worse = sum(below(*pair) for pair in pairs)
    every, even, odd = map(len, study.parts)
    return (
        f"{table}\n\nIn %. {every} images, then (even / odd ranks of the sorted file names: {even} "
        f"/ {odd}). **Bold**: below the row without edges, {worse} of {len(pairs)} figures. ODS at "
        f"{THRESHOLDS} thresholds; noise of the semantic masks {study.noise:g}; false edges of "
        f"{study.false_edges}.\n"
    )


def halves_table(
    rows: Mapping[str, Mapping[str, Sequence[float | None]]], floor: str, metrics: Sequence[str]
) -> str:
    """A Markdown table of scores over all images and over two halves: ``all (one / other)``.

    A score below that of the row ``floor``, which all are held against, is bold.
    """
    from tabulate import tabulate

    body = []
    for name, scores in rows.items():
        cells = [_halves(scores.get(metric, ()), rows[floor].get(metric, ())) for metric in metrics]
        body.append([name, *cells])
    aligned = ["left"] + ["right"] * len(metrics)
    return tabulate(body, ["", *metrics], tablefmt="pipe", colalign=aligned, disable_numparse=True)


def below(score: float | None, floor: float | None) -> bool:
    """Whether a score is lower than that of the row it is held against, by more than rounding."""
    return score is not None and floor is not None and score < floor - 1e-9


def _halves(scores: Sequence[float | None], floors: Sequence[float | None]) -> str:
    texts = ["-" if score is None else f"{100 * score:.1f}" for score in scores]
    for rank, (score, floor) in enumerate(zip(scores, floors, strict=False)):
        if below(score, floor):
            texts[rank] = f"**{texts[rank]}**"
    return f"{texts[0]} ({' / '.join(texts[1:])})" if texts else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0 done, 2 bad input, else the status of a command that failed."""
    args = _parser().parse_args(arguments)
    from trace_d2.io.atomic import write_json, write_text  # --help loads nothing

    given = vars(args)
    wanted = given.pop("rows")
    study = StudyInputs(**given | {"detectors": dict(args.detectors), "opts": tuple(args.opts)})

    def work() -> None:
        names = _chosen(wanted, list(study.rows))
        study.check()
        study.claim()
        results = {}
        for rank, name in enumerate(names, 1):
            print(f"\n== row {rank} of {len(names)}: {study.rows[name]}", flush=True)
            results[name] = measure(study, name)
        text = report(study, results)
        write_text(study.output / "results.md", text)
        sizes = dict(zip(("all", "even", "odd"), map(len, study.parts), strict=True))
        write_json(study.output / "results.json", {"images": sizes, "rows": results}, indent=1)
        print(f"\n{text}\nwritten to {study.output}/results.md and results.json")

    return exit_status("label_quality", work)


def _chosen(wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The rows to measure in their own order; "none", which all are held against, is one."""
    check_rows(wanted, known)
    return [name for name in known if wanted is None or name in wanted or name == NO_EDGES]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_study_options(
        parser,
        ROWS,
        f"and the detectors (or {BASELINE}); {NO_EDGES} is always one",
        ", a row of their own each. The first gives the false edges; without any, colour gradients "
        f"({BASELINE}) do",
    )
    parser.add_argument(
        "--semantic-noise", type=float, default=0.2, metavar="LEVEL", dest="noise",
        help="of the noisy semantic masks, 0 (none) to 1 (poor); default %(default)s",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
