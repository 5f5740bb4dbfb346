"""Whether weights are those of their model: every tensor, no other, and each of its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trace_d2.io.json_files import shown

# What weights may hold beside a model's: buffers of former versions (PixArt-alpha has its learned
# null prompt), the other parts of models of which a text encoder is one, and heads of vision
# transformers.
_HARMLESS = re.compile(
    r"(position_ids|inv_freq|pos_embed\.pos_embed|num_batches_tracked|y_embedding)$"
    r"|^(vision_model|visual_projection|text_projection|logit_scale|decoder|lm_head)(\.|$)"
    r"|^(pooler|classifier)\."
)
_SHOWN_KEYS = 3  # names of tensors in a message


def check_report(report: Mapping[str, Any], path: Path) -> None:
    """Raise a ValueError if weights and model differ; tied weights need to be there once."""
    unexpected = [key for key in report["unexpected_keys"] if not _HARMLESS.search(key)]
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    for keys, what in (
        (report["missing_keys"], "lack {} of the model's tensors"),
        (mismatched, "have {} tensors of another shape than the model's"),
        (unexpected, "hold {} tensors that the model does not have"),
    ):
        if keys:
            names = ", ".join(map(shown, sorted(keys)[:_SHOWN_KEYS]))
            more = ", ..." if len(keys) > _SHOWN_KEYS else ""
            raise ValueError(
                f"the weights in {path} {what.format(len(keys))} ({names}{more}): they belong to"
                " another model, its config.json does, or they are incomplete; copy or download the"
                " model again"
            )


def difference(expected: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[str]]:
    """A report on tensors that are ``given`` by name, where others are ``expected``."""
    shared = expected.keys() & given.keys()
    shapes = {name: getattr(given[name], "quant_shape", given[name].shape) for name in shared}
    return {
        "missing_keys": sorted(expected.keys() - shared),
        "unexpected_keys": sorted(given.keys() - shared),
        "mismatched_keys": [n for n in sorted(shared) if shapes[n] != expected[n].shape],
    }
