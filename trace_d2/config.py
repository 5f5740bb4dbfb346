"""The ``TRACE`` keys; ``defaults.yaml`` holds each with its meaning, unit and default.

Most live under ``MODEL.TRACE``, so that one file configures a Detectron2 model and the label maker
alike. Nothing here needs Detectron2: its ``CfgNode`` is a subclass of fvcore's.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.complaints import ConfigError as ConfigError
from trace_d2.io.categories import Category, parse_categories
from trace_d2.io.hints import nearest_path
from trace_d2.io.json_files import quoted, shown
from trace_d2.settings import flatten

DEFAULTS = Path(__file__).with_name("defaults.yaml")

# Taken and passed over with a warning: calibration of the edges took the place of four, and the
# padding changed no result.
_FORMER_KEYS = (
    *(
        f"MODEL.TRACE.{node}.{key}"
        for node in ("LABELS", "BGP")
        for key in ("CONTRAST", "EVIDENCE")
    ),
    "MODEL.TRACE.BGP.IRNET_PADDING",
)


def add_trace_config(cfg: CfgNode) -> None:
    """Add the ``TRACE`` nodes to ``cfg`` in place; call it before ``cfg.merge_from_file``.

    Args:
        cfg: a Detectron2 or fvcore config. ``MODEL``, ``INPUT`` and ``DATASETS`` are made if they
            are missing.
    """
    # Detectron2 merges files only into nodes of its own class.
    kind = type(cfg)
    for name, node in _defaults().items():
        if name not in cfg:
            cfg[name] = kind()
        cfg[name].TRACE = _of_kind(node["TRACE"], kind)
    for key in _FORMER_KEYS:
        cfg.register_deprecated_key(key)


@functools.cache
def _defaults() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))
    return content


def _of_kind(node: Mapping[str, Any], kind: type[CfgNode]) -> CfgNode:
    """A copy of ``node`` with every mapping in it of the class ``kind``."""
    made = kind(copy.deepcopy(dict(node)))
    for key, value in node.items():
        if isinstance(value, Mapping):
            made[key] = _of_kind(value, kind)
    return made


def get_trace_cfg() -> CfgNode:
    """A config that holds the ``TRACE`` keys at their defaults, and ``MODEL.DEVICE``, no more.

    ``MODEL.DEVICE`` is Detectron2's key, which means the same in all tools; "auto" is CUDA where
    there is one.
    """
    cfg = CfgNode()
    add_trace_config(cfg)
    cfg.MODEL.DEVICE = "auto"
    return cfg


def load_trace_cfg(
    config_file: str | Path | None = None, overrides: Sequence[str] | None = None
) -> CfgNode:
    """Defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE`` pairs; frozen.

    Of a file for training (it names a META_ARCHITECTURE) only the TRACE keys and MODEL.DEVICE are
    taken: the others are Detectron2's, which need not be installed.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: the file is no config, or it or a pair names a key that does not exist or a
            value that the key cannot have.
    """
    wrong = Complaints()
    cfg = usable_trace_cfg(wrong, config_file, overrides)
    wrong.end()
    return cfg


def usable_trace_cfg(
    wrong: Complaints,
    config_file: str | Path | None = None,
    overrides: Sequence[str] | None = None,
) -> CfgNode:
    """As ``load_trace_cfg``, of the keys that can be used; ``wrong`` is told of the others."""
    cfg = get_trace_cfg()
    content = wrong.of(read_config, config_file) if config_file is not None else None
    if content is not None:
        model = content.get("MODEL")
        if isinstance(model, Mapping) and "META_ARCHITECTURE" in model:
            content = _own_keys(content)
        merge_usable(wrong, cfg, content, shown(str(config_file)))
    wrong.of(merge_pairs, cfg, overrides or ())
    cfg.freeze()
    return cfg


def configured_categories(cfg: CfgNode) -> tuple[Category, ...]:
    """What the classes of the model of ``cfg`` are, in their order; empty where it does not say.

    Raises:
        ConfigError: ``MODEL.TRACE.CATEGORIES`` is no list of categories.
    """
    entries = cfg.MODEL.TRACE.CATEGORIES
    try:
        return parse_categories(entries, "MODEL.TRACE.CATEGORIES", max_id=None) if entries else ()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def merge_usable(wrong: Complaints, cfg: CfgNode, content: dict[str, Any], where: str) -> None:
    """Merge the keys of a file into ``cfg``; ``wrong`` is told of those that cannot be."""

    def merge() -> None:
        with explained(cfg, flatten(content), where):
            cfg.merge_from_other_cfg(type(cfg)(copy.deepcopy(content)))

    wrong.of(merge)


def read_config(config_file: str | Path, kind: type[CfgNode] = CfgNode) -> dict[str, Any]:
    """The keys of a YAML file and of its ``_BASE_``, opened as configs of ``kind`` are.

    Raises:
        FileNotFoundError: there is no such file, or none that a ``_BASE_`` names.
        ConfigError: it is no YAML of keys. Tags that make Python objects are none.
    """
    where = shown(str(config_file))
    if "://" not in where and not Path(config_file).is_file():
        raise FileNotFoundError(
            f"no config file at {where}{nearest_path(config_file)}: correct --config-file"
        )
    try:
        content = kind.load_yaml_with_base(str(config_file), allow_unsafe=False)
        CfgNode(content)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{where} has a _BASE_ that is absent ({error}): correct it; it is"
            " relative to the file that names it"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{where} is its own _BASE_: correct it") from error
    except (yaml.YAMLError, UnicodeError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"{where} is no config, which is YAML of keys and plain values ({error}): correct it"
        ) from error
    return content


def merge_pairs(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Take over ``KEY VALUE KEY VALUE ...`` of a command line; raises a ConfigError as above."""
    if len(pairs) % 2:
        raise ConfigError(
            f"config keys come as KEY VALUE pairs, but these are {len(pairs)}: "
            + shown(" ".join(map(str, pairs)))
            + ("; options come before them" if any(str(p).startswith("--") for p in pairs) else "")
        )
    fitting = [
        (key, _as_float(cfg, key, text)) for key, text in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    with explained(cfg, dict(fitting), "the command line"):
        cfg.merge_from_list([part for pair in fitting for part in pair])


@contextlib.contextmanager
def explained(cfg: CfgNode, given: Mapping[str, Any], where: str) -> Iterator[None]:
    """Within it, errors of merging the keys ``given`` into ``cfg`` become a ConfigError.

    It names every key that does not exist, with the one that may be meant, and every key whose
    value is of another kind; the other keys are merged. ``where`` the keys stand begins the
    message.
    """
    before = {key: _value(cfg, key) for key in given if _is_key(cfg, key) and "TRACE" in key}
    try:
        yield
        for key, value in before.items():
            if _value(cfg, key) is None:  # which yacs takes for anything
                raise ConfigError(f"{where}: {key} must be {_kind_of(value)}, not None")
    except ConfigError:
        raise
    except (KeyError, AssertionError, ValueError, TypeError, AttributeError) as error:
        raise _explanation(cfg, given, where, error) from error


def _explanation(
    cfg: CfgNode, given: Mapping[str, Any], where: str, error: Exception
) -> ConfigError:
    """What is wrong with the keys ``given``; those that are right are merged."""
    lines = []
    unknown = [k for k in given if not _is_key(cfg, k) and not cfg.key_is_deprecated(k)]
    if unknown:
        known = list(flatten(cfg))
        texts = "; ".join(f"{shown(key)}{_meant(key, known)}" for key in unknown)
        lines.append(
            f"{where} names config keys that do not exist: {texts}. docs/config.md lists"
            " TRACE's keys"
        )
    for key, value in given.items():
        if _is_key(cfg, key):
            kind = _kind_of(_value(cfg, key))
            try:
                cfg.merge_from_list([key, copy.deepcopy(value)])
            except (KeyError, AssertionError, ValueError, TypeError, AttributeError):
                lines.append(f"{where}: {key} must be {kind}, not {quoted(value)}")
    wrong = Complaints()
    for line in lines or [f"{where}: {error}"]:
        wrong.say(line)
    return wrong.joined()


def _own_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of the keys of a training, those that are known without Detectron2."""
    own: dict[str, Any] = {}
    for name in _defaults():
        node = content.get(name)
        if isinstance(node, Mapping) and "TRACE" in node:
            own[name] = {"TRACE": node["TRACE"]}
    if "DEVICE" in content["MODEL"]:
        own.setdefault("MODEL", {})["DEVICE"] = content["MODEL"]["DEVICE"]
    return own


def _as_float(cfg: CfgNode, key: str, text: str) -> str:
    """``text`` of a whole number as that of a float, where ``cfg`` has one at ``key``."""
    whole = isinstance(text, str) and re.fullmatch(r"[+-]?\d{1,15}", text, re.ASCII)
    return f"{text}.0" if whole and _is_key(cfg, key) and type(_value(cfg, key)) is float else text


def _value(cfg: CfgNode, key: str) -> Any:
    """What ``cfg`` holds at the dotted ``key``; a KeyError where that is nothing."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, Mapping):
            raise KeyError(key)
        node = node[part]
    return node


def _is_key(cfg: CfgNode, key: str) -> bool:
    try:
        _value(cfg, key)
    except KeyError:
        return False
    return True


def _meant(key: str, known: Sequence[str]) -> str:
    """A guess which of the ``known`` keys is meant by ``key``."""
    close = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.75)
    last = key.upper().rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    if not close and len(same) <= 3:
        close = same
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _kind_of(value: Any) -> str:
    """What values may take the place of ``value``, the default."""
    if isinstance(value, Mapping):
        return f"a group of keys ({', '.join(list(value)[:4])}, ...)"
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, (list, tuple)):
        return f"a list, as {list(value)}"
    if isinstance(value, float):
        return f"a number with a decimal point, as {value}"
    return f"a whole number, as {value}" if isinstance(value, int) else "a text"
