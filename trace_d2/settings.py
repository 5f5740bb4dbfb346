"""Settings as frozen dataclasses that read their config node and check themselves.

    @dataclass(frozen=True)
    class LabelSettings(NodeSettings, node="MODEL.TRACE.LABELS"):
        cut: str = one_of("basins", "components", default="basins")
        neck_depth: float = within(0.0, default=2.0)

The field ``neck_depth`` is the key ``MODEL.TRACE.LABELS.NECK_DEPTH``, whose meaning and unit stand
in ``config``. What a message names is always the whole key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin, get_type_hints

from trace_d2.complaints import Complaints
from trace_d2.io.hints import did_you_mean

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode
    from typing_extensions import Self

_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}
"""Types of fields: what their values may be, and how messages call that."""


def one_of(*choices: Any, default: Any) -> Any:
    """A field whose value, or each of whose values if it is a tuple, is one of ``choices``."""
    return field(default=default, metadata={"choices": choices})


def within(low: float, high: float = math.inf, *, default: Any) -> Any:
    """A field whose number, or each of whose numbers, is in ``low``..``high``, bounds included."""
    return field(default=default, metadata={"bounds": (low, high)})


@dataclass(frozen=True)
class NodeSettings:
    """Settings of one config node; subclasses name it and add a field for each key they use.

    Raises:
        ValueError: at construction, where a value is none of a field's choices or out of bounds; it
            tells all fields of which that is so.
    """

    node: ClassVar[str]

    def __init_subclass__(cls, node: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.node = node

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Self:
        """The settings that ``cfg`` has in its node; lists become tuples."""
        node = cfg
        for part in cls.node.split("."):
            node = node[part]
        values = {name.name: node[name.name.upper()] for name in fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def __post_init__(self) -> None:
        kinds, wrong = get_type_hints(type(self)), Complaints()
        for own in fields(self):
            wrong.of(self._check_field, own, kinds[own.name])
        wrong.end()

    def _check_field(self, own: Field[Any], kind: Any) -> None:
        key, value = f"{self.node}.{own.name.upper()}", getattr(self, own.name)
        many = get_origin(kind) is tuple
        if isinstance(value, tuple) is not many:
            raise ValueError(f"{key} must be {'a list' if many else 'one value'}, not {value!r}")
        for single in value if many else (value,):
            _check(key, own, get_args(kind)[0] if many else kind, single)


def _check(key: str, own: Field[Any], kind: type, value: Any) -> None:
    """Raise a ValueError unless ``value`` is of the ``kind``, a choice and within bounds."""
    allowed, name = _KINDS[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} must be {name}, not {value!r}")
    choices = own.metadata.get("choices")
    if choices is not None and value not in choices:
        raise ValueError(
            f"{key} must be one of {', '.join(map(str, choices))}, not {value!r}"
            f"{did_you_mean(value, choices) if value else ''}"
        )
    low, high = own.metadata.get("bounds", (-math.inf, math.inf))
    if "bounds" in own.metadata and not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"in {low:g}..{high:g}"
        raise ValueError(f"{key} must be {limits}, not {value!r}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, not {value!r}")


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a config node by dotted key; tuples become lists, as JSON has them."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short text that is equal for equal settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
