"""CLIP's tokenizer from its merges, for single-file checkpoints, which carry none.

The vocabulary follows from the merges (Radford et al. 2021, the openai/CLIP repository): 256 bytes, the same
256 at a word's end, one token per merge in order, and the two specials: 49,408 in all.
"""

from __future__ import annotations

from importlib.resources import files

VOCABULARY = 49_408
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad_token: str = END):
    """transformers' CLIPTokenizer with CLIP's own vocabulary; SD 2.x and SDXL's second one pad with "!"."""
    from transformers import CLIPTokenizer

    text = (files("symdream") / "assets" / "clip-tokenizer" / "merges.txt").read_text(encoding="utf-8")
    merges = [tuple(line.split(" ")) for line in text.splitlines()]
    letters = _byte_letters()
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=77)


def _byte_letters() -> list[str]:
    """A printable letter for each byte: printable bytes stand for themselves, the others for 256, 257, ..."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
