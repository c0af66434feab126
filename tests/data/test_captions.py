"""Captions beside photos, and what tag dropout leaves of them."""

import pytest

from symdream.data.captions import caption_of, says, thinned


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    (tmp_path / "a.txt").write_text("sks bird", encoding="utf-8-sig")
    assert caption_of(tmp_path / "a.png", "a {subject}", trigger="x", class_noun="y") == "sks bird"


@pytest.mark.parametrize(
    ("caption", "trigger", "kept"),
    [
        ("a photo, of john smith, red background, forest", "john smith", "of john smith"),
        ("forest, night, Sks dog, red", "sks", "Sks dog"),
        ("forest, night, photo of sks: the dog", "sks", "photo of sks: the dog"),
        ("forest, (sks dog:1.2), night", "sks", "(sks dog:1.2)"),
        ("forest, skseries, night", "sks", "forest"),
    ],
)
def test_tag_dropout_keeps_the_tag_with_the_trigger_else_the_first(caption, trigger, kept):
    variants = thinned(caption, 0.5, trigger, 0)
    tags = caption.split(", ")
    for tag in tags:
        shown = sum(tag in variant.split(", ") for variant in variants)
        assert shown == len(variants) if tag == kept else 0 < shown < len(variants)


def test_words_are_said_as_words_in_any_case():
    assert says("a photo of SKS, the dog", "sks") and not says("a photo of skseries", "sks")
