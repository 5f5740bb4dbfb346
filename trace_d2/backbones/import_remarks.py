"""Silence for optional packages that diffusers imports wherever they are installed.

At import they tell of extensions and versions that change nothing here. This is imported first.
"""

from __future__ import annotations

import logging

for _name in (
    "bitsandbytes.backends.cpu.ops",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "torch.utils._pytree",
):
    logging.getLogger(_name).setLevel(logging.ERROR)
