"""Captions beside photos, and what tag dropout leaves of them."""

import pytest

from symdream.data.captions import caption_of, prompt_problem, says, shared_triggers, template_problem, thinned
from symdream.errors import RequestError


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    (tmp_path / "a.txt").write_text("sks bird", encoding="utf-8-sig")
    assert caption_of(tmp_path / "a.png", "a {subject}", trigger="x", class_noun="y") == "sks bird"


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.Txt"])
def test_the_ending_of_a_caption_is_read_in_any_case_as_that_of_a_photo(tmp_path, name):
    (tmp_path / name).write_text("a {subject} at night")
    assert caption_of(tmp_path / "a.JPG", "a {subject}", trigger="sks", class_noun="bird") == "a sks bird at night"
    (tmp_path / "b.png.txt").write_text("a {subject} by day")
    assert caption_of(tmp_path / "b.png", "a {subject}", trigger="sks", class_noun="bird") == "a sks bird"


def test_two_captions_of_one_photo_are_refused(tmp_path):
    for name in ("a.txt", "a.TXT"):
        (tmp_path / name).write_text(name)
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this disk knows no case")
    with pytest.raises(RequestError, match=r"a\.png has 2 captions: a\.TXT, a\.txt"):
        caption_of(tmp_path / "a.png", "a {subject}", trigger="sks", class_noun="bird")


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
    variants = thinned(caption, 0.5, trigger)
    tags = caption.split(", ")
    for tag in tags:
        shown = sum(tag in variant.split(", ") for variant in variants)
        assert shown == len(variants) if tag == kept else 0 < shown < len(variants)


def test_words_are_said_as_words_in_any_case():
    assert says("a photo of SKS, the dog", "sks") and not says("a photo of skseries", "sks")


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a {sbject}", "{sbject}"),
        ("a {subject} and { subject }", "{ subject }"),
        ("a {Subject}", "{Subject}"),
        ("a {subject} on a {beach}", "{beach}"),
        ("a {subject}", None),
        ("a {red|blue} {subject}, {{}} } {", None),
    ],
)
def test_only_subject_stands_for_something_in_braces(prompt, unknown):
    problem = prompt_problem(prompt)
    assert problem == (unknown and f"{unknown} stands for nothing; did you mean {{subject}}?")
    assert template_problem(f"{{subject}} {prompt}") == problem


def test_adapters_that_answer_to_the_same_word_are_named():
    assert shared_triggers([("owl", "sks"), ("fox", "zwx"), ("some LoRA", ""), ("another", "")]) == []
    [note] = shared_triggers([("owl", "sks"), ("fox", "SKS"), ("cat", "ohwx"), ("dog", "sks")])
    assert note.startswith('owl, fox and dog answer to "sks" alike'), "the tokenizer knows no case"
