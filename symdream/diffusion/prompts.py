"""What CLIP reads of a prompt."""

from __future__ import annotations


def cut_off(tokenizer, prompt: str) -> str:
    """The end of `prompt` that lies beyond the tokenizer's limit (CLIP: 75 tokens and two marks), or ""."""
    # verbose: transformers warns of indexing errors for a prompt beyond the limit, which is cut before it is embedded.
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return tokenizer.decode(ids[tokenizer.model_max_length - 2 :]).strip()
