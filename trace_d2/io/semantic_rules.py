"""Which class a pixel of a semantic map stands for: the rules of ``semantic_rules.yaml``.

The truth of a benchmark counts its classes in its own way, and leaves some pixels out. What models
predict are ids of categories. Classes are found in both by their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .categories import BUILTIN_CATEGORIES, UNKNOWN, Category, load_categories, same_name
from .hints import did_you_mean
from .score_stacks import labels_of_scores

_TABLE: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)

RULES = tuple(_TABLE)
"""Names that ``load_rule`` knows."""

TRUTH_ENDS = tuple(
    sorted({way["end"] for row in _TABLE.values() for way in row["truth"] if "end" in way})
)
"""Ends of stems by which ways of writing the truth are told apart, of all rules."""

NO_CLASS, STRANGE = -1, -2
"""In tables of values: not of any class, of the truth left out; what should not be there."""


@dataclass(frozen=True)
class TruthFiles:
    """A way in which maps of the truth are written.

    Attributes:
        end: of the stems of such files, ``""``: any.
        values: of the classes, in their order.
        ignored: values of pixels that count nowhere.
    """

    end: str
    values: tuple[int, ...]
    ignored: frozenset[int]

    def ranks(self) -> np.ndarray:
        """(256,) int16 by value: rank of the class, ``NO_CLASS`` where ignored, ``STRANGE``."""
        table = np.full(256, STRANGE, np.int16)
        table[list(self.ignored)] = NO_CLASS
        table[list(self.values)] = np.arange(len(self.values))
        return table


@dataclass(frozen=True)
class SemanticRule:
    """What the classes of a benchmark are, and how its truth is written.

    Attributes:
        name: of the rule.
        classes: in the order of their ids; ranks count in it.
        truth: ways of writing it; the first counts that the end of some file's stem is of.
        image_end: what stems of images end in, where those of the truth have their own end.
        background: the class that models without one leave over; None: there is none.
        threshold: below which the highest of the scores of the other classes means background, a
            default that depends on the model.
    """

    name: str
    classes: tuple[Category, ...]
    truth: tuple[TruthFiles, ...]
    image_end: str = ""
    background: Category | None = None
    threshold: float | None = None

    def ranks(self, categories: Sequence[Category], origin: str) -> np.ndarray:
        """(256,) int16 by the id of a category, as predictions hold it: rank of the class of its
        name, ``NO_CLASS`` or ``STRANGE``.

        Blanks, hyphens and capitals count where names differ in nothing else. Unknown
        (255) is the background if ``categories`` have none, and no class otherwise.

        Args:
            categories, origin: what ids of predictions stand for, and where that is from.

        Raises:
            ValueError: the categories lack a class.
        """
        known = self._known(categories)
        lacking = [
            own
            for own, other in zip(self.classes, known, strict=True)
            if other is None and own != self.background
        ]
        if lacking:
            raise ValueError(
                f"{origin} lacks {len(lacking)} of the {len(self.classes)} classes of "
                f"{self.name}: {_named(lacking, categories)}: call them as the rule does "
                f"({self._builtin()})"
            )
        table = np.full(256, STRANGE, np.int16)
        table[[category.id for category in categories]] = NO_CLASS
        table[UNKNOWN] = NO_CLASS
        for rank, category in enumerate(known):
            table[category.id if category else UNKNOWN] = rank
        return table

    def _known(self, categories: Sequence[Category]) -> list[Category | None]:
        """Those of ``categories`` that the classes are, in the order of these."""
        found = [same_name(own, categories) for own in self.classes]
        return [  # a name that is spelled in another way is of one class alone
            other if other and (other.name == own.name or found.count(other) == 1) else None
            for own, other in zip(self.classes, found, strict=True)
        ]

    def classes_of_scores(
        self,
        scores: np.ndarray,
        categories: Sequence[Category],
        shape: tuple[int, ...],
        threshold: float | None = None,
    ) -> np.ndarray:
        """What scores of a model say, as a map of ids that ``ranks`` knows.

        Args:
            scores: floating (C, H', W'), a map a category in their order.
            categories: C of them. A background that they lack is where none reaches the threshold.
            shape: (H, W) of the image.
            threshold: of the scores, in their unit; None: that of the rule.

        Returns:
            (H, W) uint8 ids of categories; 255 is a background that they lack.
        """
        ids = [category.id for category in categories]
        if self.leaves_background_over(categories):
            level = self.threshold if threshold is None else threshold
            left_over = np.full((1, *scores.shape[1:]), level, np.float32)
            scores, ids = np.concatenate([scores, left_over]), [*ids, UNKNOWN]
        return labels_of_scores(scores, ids, shape)

    def check_threshold(self, threshold: float | None, categories: Sequence[Category]) -> None:
        """Raise a ValueError unless ``classes_of_scores`` can use the ``threshold``."""
        if threshold is None:
            return
        if not math.isfinite(threshold):
            raise ValueError(
                f"the threshold of the background is {threshold}: give a number in the unit of the "
                "scores"
            )
        if not self.leaves_background_over(categories):
            which = "the categories have the background" if self.background else "there is none"
            raise ValueError(
                f"a threshold of the background is of no use, as {which}: leave it out"
            )

    def beyond(self, categories: Sequence[Category]) -> list[str]:
        """Names of ``categories`` that are no class of the rule."""
        known = self._known(categories)
        return [category.name for category in categories if category not in known]

    def leaves_background_over(self, categories: Sequence[Category]) -> bool:
        """Whether what predictions leave unknown is the background."""
        return self.background is not None and same_name(self.background, categories) is None

    def _builtin(self) -> str:
        name = _TABLE.get(self.name, {}).get("categories", "")
        return f"--categories {name}" if name in BUILTIN_CATEGORIES else "see its categories"


def load_rule(name: str) -> SemanticRule:
    """The rule ``name``, one of ``RULES``; a ValueError if it is none."""
    if name not in _TABLE:
        raise ValueError(
            f"no rule {name!r}{did_you_mean(name, RULES)}: choose one of {', '.join(RULES)}"
        )
    row = _TABLE[name]
    classes = tuple(sorted(load_categories(row["categories"]), key=lambda category: category.id))
    background = next((c for c in classes if c.name == row.get("background")), None)
    truth = tuple(_truth_files(way) for way in row["truth"])
    return SemanticRule(
        name, classes, truth, row.get("images", ""), background, row.get("threshold")
    )


def plain_rule(categories: Sequence[Category]) -> SemanticRule:
    """Truth that is written as predictions are: ids of ``categories``, 255 = ignored."""
    classes = tuple(sorted(categories, key=lambda category: category.id))
    ids = tuple(category.id for category in classes)
    return SemanticRule("", classes, (TruthFiles("", ids, frozenset({UNKNOWN})),))


def _truth_files(way: Mapping[str, Any]) -> TruthFiles:
    return TruthFiles(
        way.get("end", ""), tuple(_numbers(way["values"])), frozenset(_numbers(way["ignored"]))
    )


def _numbers(text: Any) -> list[int]:
    """``0-2 7`` as [0, 1, 2, 7]."""
    ranges = (part.partition("-") for part in str(text).split())
    return [n for first, _, last in ranges for n in range(int(first), int(last or first) + 1)]


def _named(lacking: Sequence[Category], categories: Sequence[Category]) -> str:
    names = [f"{c.name}{did_you_mean(c.name, (k.name for k in categories))}" for c in lacking[:5]]
    return ", ".join(names) + (", ..." if len(lacking) > 5 else "")
