"""Reading prompts, and finding each image's."""

import pytest

from symdream.errors import Problems, RequestError
from symdream.metrics.prompts import PHOTO_SCENES, SPRITE_SCENES, Prompt, PromptSet, assign_prompts, read_prompts

BIRD = PromptSet([Prompt("an icon of a {subject} on blue"), Prompt("a {subject} and a cake")], "bird")
GOOD = """
class_noun = "bird"
tuning = false
[[prompt]]
text = "a {subject} on blue"
held_out = true
ideal = "ideal/00.png"
[[prompt]]
text = "a {subject} on red"
held_out = false
"""


def images(*prompts):
    """The prompts that images carry, by name."""
    return {f"{number:02d}.png": prompt for number, prompt in enumerate(prompts)}


def write(folder, text, name="prompts.toml"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_prompts_toml_gives_texts_noun_and_ideal_pictures(tmp_path):
    (tmp_path / "ideal").mkdir()
    (tmp_path / "ideal" / "00.png").write_bytes(b"")
    found = read_prompts(write(tmp_path, GOOD))
    assert found.class_noun == "bird"
    assert found.prompts == [
        Prompt("a {subject} on blue", True, tmp_path / "ideal" / "00.png"),
        Prompt("a {subject} on red", False, None),
    ]
    assert found.held_out().prompts == found.prompts[:1]


def test_a_prompt_that_does_not_say_so_is_held_out_and_a_mark_of_utf8_is_no_part_of_a_file(tmp_path):
    text = '\ufeffclass_noun = "bird"\n[[prompt]]\ntext = "a {subject}"\n'
    assert read_prompts(write(tmp_path, text)) == PromptSet([Prompt("a {subject}", held_out=True)], "bird")
    assert read_prompts(write(tmp_path, "\ufeffa red bird\n", "prompts.txt")).prompts == [Prompt("a red bird")]


def test_where_nothing_is_held_out_every_prompt_counts():
    prompts = [Prompt("a {subject}", held_out=False)]
    assert PromptSet(prompts, "bird").held_out().prompts == prompts


def test_a_text_file_has_one_prompt_a_line(tmp_path):
    found = read_prompts(write(tmp_path, "  a  red bird\n\n ein Vögelchen\n", "prompts.txt"))
    assert found == PromptSet([Prompt("a red bird"), Prompt("ein Vögelchen")])


def test_all_that_is_wrong_in_a_prompts_toml_is_told_at_once(tmp_path):
    text = 'tunning = true\n[[prompt]]\ntext = "no place"\n[[prompt]]\ntext = "a {subject}"\nideal = "no.png"\n'
    with pytest.raises(Problems) as error:
        read_prompts(write(tmp_path, text))
    told = str(error.value)
    for part in ("4 problems", "class_noun", "tunning", "known are class_noun", "contain {subject}", "no.png"):
        assert part in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("prompts.txt", b"\n \n", "is empty"),
        ("prompts.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("prompts.txt", b"a bird\na {brid} in the snow", '"a {brid} in the snow"  {brid} stands for nothing'),
        ("prompts.toml", b"class_noun = ", "not valid TOML"),
        ("prompts.toml", b'class_noun = "bird"\n[[prompt]]\ntext = "a {subject} {x}"', "prompt 1: text  {x} stands"),
        ("prompts.toml", b'class_noun = "bird"\n[[prompt]]\ntext = ["{subject} {x}"]', "must be a str"),
        ("prompts.toml", b'class_noun = "bird"', "at least once"),
        ("prompts.toml", b'class_noun = "bird"\nprompt = "a {subject}"', "must be a list"),
        ("prompts.toml", b'class_noun = 3\n[[prompt]]\ntext = "a {subject}"', "must be a str"),
    ],
)
def test_a_bad_prompts_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match="No prompts file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(RequestError, match="is a folder"):
        read_prompts(tmp_path)


def test_images_that_carry_their_prompts_need_no_file():
    assert assign_prompts(images("a bird", "a cake"), None) == ["a bird", "a cake"]
    with pytest.raises(RequestError, match="1 of 2 images do not say"):
        assign_prompts(images("a bird", None), None)


def test_as_many_prompts_as_images_are_taken_in_order_with_the_noun_in_place():
    assert assign_prompts(images(None, None), BIRD) == ["an icon of a bird on blue", "a bird and a cake"]


def test_metadata_decides_which_of_the_files_prompts_made_an_image():
    carried = ["a sks bird and a cake", "an icon of a sks bird on blue", "a bird and a cake", "a zwx k bird and a cake"]
    cake, blue = "a bird and a cake", "an icon of a bird on blue"
    assert assign_prompts(images(*carried), BIRD) == [cake, blue, cake, cake]
    assert assign_prompts(images(*carried[:2]), BIRD) == [cake, blue]


def test_a_noun_that_ends_a_longer_word_is_another_one():
    cat = PromptSet([Prompt("a {subject} on blue"), Prompt("a {subject} on red")], "cat")
    with pytest.raises(RequestError, match=r"1 of 2 do not: 01.png \(a bobcat on red\)"):
        assign_prompts(images("a sks cat on blue", "a bobcat on red"), cat)


@pytest.mark.parametrize("turned", [False, True])
def test_the_very_prompt_wins_over_a_more_general_one(turned):
    texts = ["a {subject}", "a 3d render of a {subject}", "a {subject} on green", "an icon of a {subject} on green"]
    given = PromptSet([Prompt(text) for text in (texts[::-1] if turned else texts)], "fox")
    for text in texts:
        made, shown = text.replace("{subject}", "sks fox"), text.replace("{subject}", "fox")
        assert assign_prompts(images(made, shown), given, trigger="sks") == [shown, shown]
        assert assign_prompts(images(made, shown), given) == [shown, shown]


def test_prompts_of_a_text_file_match_with_and_without_the_trigger():
    given = PromptSet([Prompt("a photo of a sks dog"), Prompt("a red cat")])
    carried, dog = ["a red cat", "a photo of a dog", "a photo of a sks dog"], "a photo of a sks dog"
    assert assign_prompts(images(*carried), given, trigger="sks") == ["a red cat", dog, dog]


def test_prompts_that_the_metadata_does_not_know_go_by_order():
    given = PromptSet([Prompt("a painting"), Prompt("a sculpture")])
    assert assign_prompts(images("a bird", "a cake"), given) == ["a painting", "a sculpture"]


def test_wrong_counts_are_refused_with_both_numbers():
    for count in (1, 3):
        with pytest.raises(RequestError, match=f"{count} images but 2 prompts, and none of the images carries"):
            assign_prompts(images(*[None] * count), BIRD)


def test_where_some_images_carry_a_prompt_of_the_file_the_others_do_not_go_by_order():
    given = PromptSet([Prompt("a watercolor of a fox"), Prompt("a fox on a beach"), Prompt("a fox in the snow")])
    carried = images("a sks fox in the snow", "a sks fox on a beach", "a watercolour of a sks fox")
    with pytest.raises(RequestError, match=r"but 1 of 3 do not: 02.png \(a watercolour of a sks fox\)"):
        assign_prompts(carried, given, trigger="sks")
    with pytest.raises(RequestError, match=r"2 of 3 do not: 00.png \(none\); 02.png \(a dog and a cake\)"):
        assign_prompts(images(None, "a sks bird and a cake", "a dog and a cake"), BIRD)


def test_a_text_file_with_a_placeholder_has_no_noun_to_fill_in():
    with pytest.raises(RequestError, match="does not say what the subject is"):
        assign_prompts(images(None), PromptSet([Prompt("a {subject}")]))


@pytest.mark.parametrize("scenes", [SPRITE_SCENES, PHOTO_SCENES])
def test_the_general_scenes_all_ask_for_the_subject(scenes):
    assert all(prompt.text.count("{subject}") == 1 for prompt in scenes.prompts)
    assert len({prompt.text for prompt in scenes.prompts}) == 6
