"""Tiny random LLaVA and Qwen2.5-VL, as a user's folder would look on disk: weights in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

PATCH, SIDE = 14, 56  # of LLaVA's tower
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
IMAGE_TOKEN = 40

_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_TEXT = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 24,
    "fullatt_block_indexes": [1, 3],
}


def _llava() -> LlavaForConditionalGeneration:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_TOWER),
        text_config=LlamaConfig(**_TEXT),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    return LlavaForConditionalGeneration(config)


def _qwen() -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(vision_config=_VISION, text_config=_TEXT)
    return Qwen2_5_VLForConditionalGeneration(config)


TINY_MULTIMODAL = {"llava": _llava, "qwen2_5_vl": _qwen}
"""By model type."""


def save_tiny_multimodal(kind: str, folder: Path, seed: int = 0) -> Any:
    """Build a tiny model of ``kind`` in ``TINY_MULTIMODAL``, save it and return it."""
    torch.manual_seed(seed)
    model = TINY_MULTIMODAL[kind]().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:  # attention that is far from uniform
                weight.normal_(std=0.3)
            elif "norm" not in name:
                weight.normal_(std=0.1)
    model.save_pretrained(folder, max_shard_size="20KB")
    content = {"image_mean": list(MEAN), "image_std": list(STD), "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    if kind == "llava":
        _save_tokenizer(folder)
    return model


def _save_tokenizer(folder: Path) -> None:
    words = ["<pad>", "<s>", "</s>", "<unk>", "USER", ":", "Describe", "this", "image", "ASSISTANT"]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {f"word{n}": n for n in range(len(words), IMAGE_TOKEN)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert fast.convert_tokens_to_ids("<image>") == IMAGE_TOKEN
    fast.save_pretrained(folder)
