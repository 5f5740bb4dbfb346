"""Which categories the classes of a model are: what checkpoints and configs say, and data sets.

A model counts its classes from 0; its categories are the same in the same order. A training writes
them into its config (``MODEL.TRACE.CATEGORIES``) and its checkpoints, so that a trained model can
be used where none of its labels are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from fvcore.common.config import CfgNode

from trace_d2.config import ConfigError, configured_categories
from trace_d2.data.known import KEY, category_metadata
from trace_d2.io.categories import Category, category_entries, parse_categories
from trace_d2.io.json_files import shown

_named: set[str] = set()  # data sets that are not there, and whose classes we told


@dataclass(frozen=True)
class ModelClasses:
    """What the numbers of a model's classes stand for.

    Attributes:
        things: categories of predicted things, by number.
        stuff: those of predicted stuff; the same ones where both are counted in one range.
    """

    things: Mapping[int, Category]
    stuff: Mapping[int, Category]

    @classmethod
    def of(cls, categories: Iterable[Category]) -> ModelClasses:
        """Of ``categories`` in the order of the numbers."""
        table = dict(enumerate(categories))
        return cls(table, table)

    @property
    def categories(self) -> tuple[Category, ...]:
        """All of them."""
        return tuple(dict.fromkeys((*self.things.values(), *self.stuff.values())))

    @property
    def in_one_range(self) -> tuple[Category, ...]:
        """All in the order of their numbers; empty if things and stuff are counted apart."""
        table = {**self.stuff, **self.things}
        apart = any(self.stuff.get(number, own) != own for number, own in self.things.items())
        if apart or set(table) != set(range(len(table))):
            return ()
        return tuple(table[number] for number in range(len(table)))


def dataset_classes(name: str) -> ModelClasses | None:
    """What the metadata of a data set tell of its classes; None where that is nothing.

    Detectron2's ``register_coco_instances`` knows them once the data set is loaded. Where there are
    no ids of categories, they count from 1.
    """
    if name not in MetadataCatalog:
        return None
    metadata = MetadataCatalog.get(name)
    if metadata.get("categories"):
        return ModelClasses.of(metadata.categories)
    things, stuff = metadata.get("thing_classes"), metadata.get("stuff_classes")
    if not things and not stuff:
        return None
    if things and stuff and list(things) == list(stuff):
        known = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        return ModelClasses.of(_listed(metadata, "thing", known).values())
    own = {
        kind: _listed(metadata, kind, set(range(len(names))) if kind == "thing" else set())
        for kind, names in (("thing", things or ()), ("stuff", stuff or ()))
    }
    # Panoptic FPN's stuff begins with a class for all things.
    own["stuff"] = {number: c for number, c in own["stuff"].items() if c.name != "things"}
    return ModelClasses(own["thing"], own["stuff"])


def _listed(metadata: Metadata, kind: str, things: set[int]) -> dict[int, Category]:
    """The categories of ``thing_classes`` or ``stuff_classes`` by number."""
    names = metadata.get(f"{kind}_classes") or ()
    ids: dict[int, int] = {}
    for other in ("stuff", "thing") if kind == "thing" else ("stuff",):
        known = metadata.get(f"{other}_dataset_id_to_contiguous_id") or {}
        ids.update((int(number), int(identity)) for identity, number in known.items())
    if set(ids) != set(range(len(names))):
        ids = {number: number + 1 for number in range(len(names))}
    colors = list(metadata.get(f"{kind}_colors") or ())
    entries = [
        {"id": ids[number], "name": str(name), "isthing": int(number in things), "color": color}
        for number, (name, color) in enumerate(zip_longest(names, colors[: len(names)]))
    ]
    if not entries:
        return {}
    origin = f"the data set {metadata.name}"
    return dict(enumerate(parse_categories(entries, origin, max_id=None)))


def trained_categories(cfg: CfgNode) -> tuple[Category, ...]:
    """The categories that a training by ``cfg`` teaches, its data sets being registered.

    Empty where nothing tells them before the data are loaded, or they are counted in two ranges.

    Raises:
        ConfigError: ``MODEL.TRACE.CATEGORIES`` are others than those of the first data set.
    """
    given, name = configured_categories(cfg), next(iter(cfg.DATASETS.TRAIN), "")
    classes = dataset_classes(name) if name else None
    found = classes.in_one_range if classes else ()
    if cfg.INPUT.TRACE.CLASS_AGNOSTIC:
        found = parse_categories([{"id": 1, "name": "object", "isthing": 1}], KEY)
    check_agreement({KEY: given, f"the data set {name} of DATASETS.TRAIN": found}, REMEDY)
    return given or found


REMEDY = f"set {KEY} to [] to take those of the data, or train on others"


def check_agreement(sources: Mapping[str, Sequence[Category]], remedy: str) -> None:
    """Raise a ConfigError unless all ``sources`` that have categories have the same ones.

    Args:
        sources: categories by where they are from; colours are not looked at.
        remedy: what to do, for the message.
    """
    told = {origin: categories for origin, categories in sources.items() if categories}
    if len(told) < 2:
        return
    (first, ours), *others = told.items()
    for origin, theirs in others:
        pairs = enumerate(zip_longest(map(_key, ours), map(_key, theirs)))
        for rank, (there, here) in pairs:
            if there != here:
                raise ConfigError(
                    f"{first} has {len(ours)} categories and {origin} has {len(theirs)}; number "
                    f"{rank} is {_text(there)} in the one and {_text(here)} in the other: {remedy}"
                )


def _key(category: Category) -> tuple[int, str, bool]:
    return category.id, category.name, category.isthing


def _text(key: tuple[int, str, bool] | None) -> str:
    if key is None:
        return "absent"
    return f"{shown(key[1])} (id {key[0]}, {'thing' if key[2] else 'stuff'})"


def with_categories(cfg: CfgNode, categories: Sequence[Category]) -> CfgNode:
    """``cfg``, frozen, with ``categories`` for ``MODEL.TRACE.CATEGORIES``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRACE.CATEGORIES = category_entries(tuple(categories))
    cfg.freeze()
    return cfg


def name_classes(cfg: CfgNode) -> None:
    """Let the metadata of data sets that are not registered here tell the categories of ``cfg``.

    ``DefaultPredictor`` and visualizers look there, by the names in ``DATASETS``.
    """
    categories = configured_categories(cfg)
    if not categories:
        return
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in DatasetCatalog or (name in MetadataCatalog and name not in _named):
            continue
        forget_classes(name)
        MetadataCatalog.get(name).set(**category_metadata(categories))
        _named.add(name)


def forget_classes(name: str) -> None:
    """Undo ``name_classes`` for one data set, which is to be registered now."""
    if name in _named:
        MetadataCatalog.pop(name, None)
        _named.discard(name)
