"""What of a prompt has an effect."""

from __future__ import annotations


def cut_off(tokenizer, prompt: str) -> str:
    """The end of `prompt` that lies beyond the tokenizer's limit (CLIP: 75 tokens and two marks), or ""."""
    # verbose: transformers warns of indexing errors for a prompt beyond the limit, which is cut before it is embedded.
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return tokenizer.decode(ids[tokenizer.model_max_length - 2 :]).strip()


def ineffective(negative_prompt: str, guidance: float) -> str | None:
    """What to tell of a negative prompt that the pictures cannot show, or None: guidance leads away from it, and there
    is none at a scale of 1 or less (symdream.diffusion.sampling)."""
    if not negative_prompt.strip() or guidance > 1:
        return None
    return f"The negative prompt has no effect at guidance {guidance:g}; it takes more than 1."
