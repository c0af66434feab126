"""The parts of the Generate and Compare pages that need neither browser nor model."""

import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.app_server import write_adapter, write_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from symdream.data.samples import sample_data
from symdream.diffusion.adapters import read_metadata
from symdream.diffusion.hashes import file_sha256
from symdream.diffusion.limits import SAMPLERS
from symdream.diffusion.png import save_png
from symdream.errors import Problems, RequestError, Stopped
from symdream.interop.header import read_adapter_header
from symdream.training.run_folder import RunFolder

gr = pytest.importorskip("gradio")

from symdream_apps import (  # noqa: E402
    adapter_rows,
    api,
    blind,
    comparison,
    examples,
    generate_page,
    generation,
    history,
    library,
    references,
    restore,
)
from symdream_apps.adapters import (  # noqa: E402
    AdapterCard,
    base_for,
    choices,
    entry_of,
    find_adapters,
    named,
    page_name,
    read_card,
)
from symdream_apps.blind import NEITHER, A, B, Vote  # noqa: E402
from symdream_apps.context import Context  # noqa: E402
from symdream_apps.studio import Studio, Worn  # noqa: E402
from symdream_apps.work import Desk, Update  # noqa: E402

SETTINGS = {
    "prompt": "a toy", "negative_prompt": "blue", "seed": 3, "steps": 20, "guidance": 4.5, "sampler": "ddim",
    "width": 64, "height": 96, "base": "sprite", "adapters": [],
}  # fmt: skip


@pytest.fixture
def context(tmp_path):
    return Context.at(tmp_path / "runs")


@pytest.fixture
def owl(context):
    write_run(context.runs / "owl", photos=sample_data().resolve() / "owl")
    return read_card(context, "owl")


def test_runs_and_files_are_found_and_what_they_tell_is_read(context, owl):
    weights = context.runs / "owl/adapter/unet/adapter_model.safetensors"
    (context.runs / "mine.safetensors").write_bytes(weights.read_bytes())
    (context.runs / "owl" / "owl-lora.safetensors").write_bytes(weights.read_bytes())
    write_adapter(context.runs / "no run")  # without config.toml it is a folder like any other
    (context.runs / ".app" / "hidden.safetensors").write_bytes(weights.read_bytes())
    os.utime(weights, (1e9, 1e9))
    os.utime(context.runs / "mine.safetensors", (1.1e9, 1.1e9))
    found = [context.name_of(path) for path in find_adapters(context)]
    assert found == ["mine.safetensors", "owl", "owl/owl-lora.safetensors"]  # a run's files behind it, new as they are
    assert (owl.words, owl.method, owl.base, owl.weight) == ("sks bird", "lora", "sprite", 1.0)
    assert named(context, "owl-lora.safetensors") == context.runs / "owl" / "owl-lora.safetensors"


def test_only_what_holds_an_adapter_is_offered_whatever_its_metadata_say(context, owl):
    """A base with an adapter merged into it still tells the adapter's trigger."""
    weights = owl.path / "adapter/unet/adapter_model.safetensors"
    (context.runs / "mine.safetensors").write_bytes(weights.read_bytes())
    told = read_adapter_header(weights).texts
    for name, tensor in (("base", "model.diffusion_model.input_blocks.0.0.weight"), ("odd", "some.weight")):
        save_file({tensor: torch.zeros(2, 4, 1, 1)}, context.runs / f"{name}.safetensors", metadata=told)
        with pytest.raises(RequestError, match="No adapter weight was recognised"):
            read_card(context, f"{name}.safetensors")
    assert {name for name, _ in choices(context)} == {"owl · sks bird", "mine.safetensors · sks bird"}


def test_a_link_inside_of_a_run_does_not_lead_out_of_the_folders(context, owl, tmp_path):
    weights = context.runs / "owl/adapter/unet/adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(RequestError, match="outside"):
        read_card(context, "owl")


def test_the_newest_adapter_is_the_first_of_the_list(context, owl):
    for age, name in enumerate(("b", "c", "a")):
        file = write_run(context.runs / name, photos=sample_data()) / "adapter/unet/adapter_model.safetensors"
        os.utime(file, (time.time() + 1000 - age,) * 2)
    assert [path.name for path in find_adapters(context)] == ["b", "c", "a", "owl"]


def test_adapters_of_several_bases_bring_none(context, owl):
    other = write_run(
        context.runs / "other", photos=sample_data(), base="stable-diffusion-v1-5/stable-diffusion-v1-5@1"
    )
    assert base_for(context, [owl.path]) == "sprite" and base_for(context, [other]) == "sd15"
    assert base_for(context, [owl.path, other]) is None
    assert base_for(context, [owl.path, context.runs / "gone"]) is None


def test_a_base_told_by_its_last_name_is_one_that_lies_there_and_is_a_base(context):
    for name in ("mine.safetensors", "mine.txt", "sub/x.safetensors"):
        (context.runs / name).parent.mkdir(exist_ok=True)
        (context.runs / name).touch()
    assert page_name(context, "file:mine.safetensors") == "mine.safetensors"
    for identity in ("file:mine.txt", "folder:sub", "file:sub/x.safetensors"):
        assert page_name(context, identity) is None


def test_a_hub_id_that_is_a_folder_here_is_no_base_of_an_adapter(context, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert page_name(context, "owner/name") == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert page_name(context, "owner/name") is None


@pytest.fixture
def tuned(owl):
    """The owl, with a weight that its training found best."""
    [file] = owl.path.glob("adapter/*/*.safetensors")
    about = json.dumps(read_metadata(file) | {"recommended_weight": 0.6})
    save_file(load_file(file), file, {"format": "pt", "symdream": about})
    return owl.path


@pytest.mark.parametrize(("weight", "low", "high"), [(None, 0, 2), (3.5, 0, 3.5), (-1.0, -1.0, 2)])
def test_a_row_shows_the_weight_that_is_worn_and_reaches_to_it(context, tuned, weight, low, high):
    known = {} if weight is None else {str(tuned): {"weight": weight, "on": True}}
    with gr.Blocks() as blocks:
        adapter_rows._row(read_card(context, tuned), known, gr.JSON(), None, True)
    [slider] = [block for block in blocks.blocks.values() if isinstance(block, gr.Slider)]
    assert (slider.minimum, slider.value, slider.maximum) == (low, 0.6 if weight is None else weight, high)
    assert adapter_rows.worn(context, [str(tuned)], known) == [Worn(tuned, slider.value)]
    assert api.wear(context, "owl") == Worn(tuned, 0.6) and api.wear(context, {"name": "owl", "weight": 0}).weight == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a {subject} on a red background", "a sks bird on a red background"),
        ("a bird on a red background", "a sks bird on a red background"),
        ("a sks bird on a red background", "a sks bird on a red background"),
        ("A SKS bird on a red background", "A SKS bird on a red background"),
        ("a birdcage", "a birdcage sks bird"),
        ("", "sks bird"),
    ],
)
def test_the_trigger_is_inserted_where_it_belongs(owl, before, after):
    assert adapter_rows.insert_words(before, owl) == after


@pytest.mark.parametrize(
    ("trigger", "prompt", "missing"),
    [("sks", "a SKS bird", False), ("sks", "a skskin", True), ("<owl>", "a <owl> bird", False), ("<owl>", "owl", True)],
)
def test_a_trigger_is_missed_only_where_it_is_not_read(monkeypatch, context, trigger, prompt, missing):
    from symdream.diffusion import prompts

    monkeypatch.setattr(prompts, "cut_off", lambda tokenizer, prompt: "")
    write_adapter(context.runs / "mine", trigger=trigger)
    notes = generation.prompt_notes(SimpleNamespace(tokenizer=None), prompt, [read_card(context, "mine")])
    assert [trigger in note for note in notes] == ([True] if missing else [])


def test_examples_speak_of_the_chosen_adapter_or_of_the_samples_class(context, owl):
    text = examples.texts(examples.subjects(context)["fox"])[0][0]
    assert "{subject}" in text
    assert "sks bird" in examples.filled(context, text, "dog", [str(owl.path)])
    assert "{subject}" not in (alone := examples.filled(context, text, "dog", [])) and "dog" in alone


def test_only_adapters_that_are_on_are_worn_at_the_weight_that_was_set(context, owl):
    write_run(context.runs / "fox", photos=sample_data(), noun="dog")
    fox = str(context.runs / "fox")
    strengths = {str(owl.path): {"weight": 0.4, "on": True}, fox: {"weight": 1, "on": False}}
    assert adapter_rows.worn(context, [str(owl.path), fox], strengths) == [Worn(owl.path, 0.4)]
    assert adapter_rows.worn(context, [fox], {}) == [Worn(context.runs / "fox", 1.0)]
    shutil.rmtree(fox)  # by somebody else: it is in nobody's way while it is off
    assert adapter_rows.worn(context, [str(owl.path), fox], strengths) == [Worn(owl.path, 0.4)]
    with pytest.raises(RequestError, match="take it out of the chosen adapters"):
        adapter_rows.worn(context, [fox], {})


def test_a_pictures_settings_come_back_with_adapters_that_are_gone_named(context, owl, tmp_path):
    settings = {
        "prompt": "a *b*", "negative_prompt": "", "seed": 3, "steps": 2, "guidance": 1.0, "sampler": "base",
        "width": 64, "height": 64, "base": "sprite",
        "adapters": [{"name": "owl", "weight": 0.3}, {"name": "gone", "weight": 1}],
    }  # fmt: skip
    save_png(Image.new("RGB", (64, 64)), tmp_path / "a.png", settings)
    assert restore.settings_in(tmp_path / "a.png") == settings
    with pytest.warns(UserWarning, match="Left out: gone. Not in the runs folder"):
        assert adapter_rows.remembered(context, settings["adapters"], []) == {str(owl.path): 0.3}
    assert r"a \*b\*" in restore.describe(settings)


def test_a_picture_of_symdream_generate_is_understood_too(tmp_path):
    told = {"prompt": "a", "seed": 0, "steps": 2, "guidance": 1, "sampler": "base", "width": 64, "height": 64,
            "base": "sprite", "adapter": "owl", "weight": 0.5}  # fmt: skip
    save_png(Image.new("RGB", (64, 64)), tmp_path / "a.png", told)
    assert restore.settings_in(tmp_path / "a.png")["adapters"] == [{"name": "owl", "weight": 0.5}]


@pytest.mark.parametrize("told", ["{}", '{"prompt": 3}', "[]", "no JSON", None])
def test_a_picture_without_a_prompt_of_ours_has_no_settings(tmp_path, told):
    info = PngInfo()
    if told is not None:
        info.add_itxt("symdream", told)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(RequestError, match="a.png does not carry settings"):
        restore.settings_in(tmp_path / "a.png")


def test_settings_are_told_in_words_each_with_its_own_value():
    told = {**SETTINGS, "adapters": [{"name": "owl", "weight": 0.5}]}
    facts = "seed 3 · 20 steps · guidance 4.5 · sampler ddim · 64 × 96 · sprite · owl × 0.5"
    assert restore.describe(told) == f"**a toy**  \nnot: blue  \n{facts}"


def test_every_sampler_has_a_label():
    assert tuple(generate_page.SAMPLER_LABELS) == SAMPLERS


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_seeds_are_read_as_they_are_written(seeds):
    unique = list(dict.fromkeys(seeds))
    assert comparison.parse_seeds(", ".join(map(str, seeds))) == unique
    first, last = min(seeds), max(seeds)
    assert comparison.parse_seeds(f"{first}-{last}") == list(range(first, last + 1))


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-b", "0-1000000000", "1.5"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(RequestError):
        comparison.parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "said"), [("0-9999999999999999999", "10000000000000000000 seeds"), ("5-2", "(?s)backwards.*write 2-5")]
)
def test_ranges_of_seeds_that_cannot_be_meant_say_why(text, said):
    with pytest.raises(RequestError, match=said):
        comparison.parse_seeds(text)


def test_a_comparison_tells_all_that_is_wrong_at_once(owl):
    with pytest.raises(Problems) as caught:
        comparison.check_comparison([], [" "], [])
    assert {problem.key for problem in caught.value.problems} == {"prompts", "seeds", "variants"}
    variants = comparison.of_weights(owl, comparison.WEIGHTS)
    with pytest.raises(Problems, match="70 pictures"):
        comparison.check_comparison(variants, ["a"], range(10))
    rows = comparison.check_comparison(variants, ["a", "", "b"], [1, 2])
    assert [(row.prompt, row.seed) for row in rows] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_adapters_are_compared_at_the_weight_that_was_found_best(context, owl, tuned):
    write_run(context.runs / "fox", photos=sample_data().resolve() / "fox", noun="dog")
    variants = comparison.of_adapters([read_card(context, "owl"), read_card(context, "fox")])
    assert [(variant.label, variant.adapters, variant.words) for variant in variants] == [
        ("base alone", (), "sks bird"),
        ("owl", (Worn(owl.path, 0.6),), "sks bird"),
        ("fox", (Worn(context.runs / "fox", 1.0),), "sks dog"),
    ]
    at_weights = comparison.of_weights(read_card(context, "owl"), [1.5, 0, 0.5])
    assert [(variant.label, variant.adapters) for variant in at_weights] == [
        (f"owl × {weight:g}", (Worn(owl.path, weight),)) for weight in (0.0, 0.5, 1.5)
    ]


@given(st.lists(st.sampled_from(["a", "b", "a (1)", "a (2)", "b (2)", "base alone"])), st.booleans())
def test_no_two_variants_have_one_label(names, base_too):
    cards = [AdapterCard(Path(name), name, "", "", "", "", None, 1.0) for name in names]
    labels = [variant.label for variant in comparison.of_adapters(cards, base_too=base_too)]
    assert len(set(labels)) == len(labels) == len(names) + base_too
    if base_too:
        assert labels[0] == "base alone"
    for name, label in zip(names, labels[base_too:], strict=True):
        assert label.startswith(name) and (label == name or names.count(name) > 1 or name == "base alone")


def test_labels_are_numbered_where_two_would_be_the_same(owl):
    cards = [replace(owl, name=name) for name in ("a.safetensors", "base alone", "a.safetensors", "a.safetensors (1)")]
    assert [variant.label for variant in comparison.of_adapters(cards)] == [
        "base alone", "a.safetensors (2)", "base alone (2)", "a.safetensors (3)", "a.safetensors (1)"
    ]  # fmt: skip
    assert [variant.label for variant in comparison.of_weights(owl, [0.5, 0.5])] == ["owl × 0.5 (1)", "owl × 0.5 (2)"]


def test_means_are_of_each_variants_own_scores(context):
    cells = [
        [comparison.Cell(None, dino, clip_t) for dino, clip_t in row]
        for row in (((0.1, 0.6), (0.5, 0.2)), ((0.3, 0.8), (0.7, 0.4)))
    ]
    variants = [comparison.Variant("base alone"), comparison.Variant("owl")]
    means = comparison.Comparison(variants, [comparison.Row("a", 0), comparison.Row("a", 1)], cells).means()
    assert means == [
        ("base alone", pytest.approx(0.2), pytest.approx(0.7)),
        ("owl", pytest.approx(0.6), pytest.approx(0.3)),
    ]


def test_references_are_the_runs_the_samples_or_uploaded_ones(context, owl, tmp_path):
    photos = sorted((sample_data().resolve() / "owl").glob("*.png"))
    assert references.find(context, references.OF_THE_RUN, [[], [owl.path]], None) == ([photos, photos], "")
    assert references.find(context, "owl", [[]], None) == ([photos], "")
    assert references.find(context, references.NONE, [[owl.path]], None) == ([[]], "")
    for unknown in ("cat", "../owl", ""):
        with pytest.raises(RequestError, match="run, none, .*owl") as caught:
            references.find(context, unknown, [[]], None)
        assert str(context.samples) not in str(caught.value)
    Image.new("RGB", (64, 64)).save(context.uploads / "x.png")
    assert references.find(context, "owl", [[]], [str(context.uploads / "x.png")])[0] == [[context.uploads / "x.png"]]
    (tmp_path / "private").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "private" / "x.png")
    write_run(context.runs / "mine", photos=tmp_path / "private")
    found, why = references.find(context, references.OF_THE_RUN, [[context.runs / "mine"]], None)
    assert found == [[]] and "not in this app's folders" in why and "private" not in why


def test_a_link_among_a_runs_photos_opens_nothing_outside_of_the_folders(context, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "private.png")
    photos = write_run(context.runs / "mine", photos=context.runs / "mine" / "photos") / "photos"
    photos.mkdir()
    (photos / "a.png").symlink_to(tmp_path / "private.png")
    found, why = references.find(context, references.OF_THE_RUN, [[photos.parent]], None)
    assert found == [[]] and "not in this app's folders" in why
    for sent, said in ((tmp_path / "private.png", "outside"), (context.runs / "mine" / "config.toml", "not an image")):
        with pytest.raises(RequestError, match=said):
            references.find(context, references.NONE, [[]], [str(sent)])


def test_the_photos_to_choose_are_those_of_the_sample_subjects(context):
    context.samples = context.runs
    for name in ("b", "racing_car", "none"):
        (context.samples / name).mkdir()
    for name in ("racing_car", "b"):
        (context.samples / name / "prompts.toml").touch()
    assert references.choices(context)[2:] == [("sample: b", "b"), ("sample: racing car", "racing_car")]


def test_a_run_over_several_subjects_is_not_compared_with_the_photos_of_all(context, owl):
    """DINO against the photos of two subjects is the mean of both: it falls where an adapter keeps them apart."""
    of_owl, of_fox = (sorted((sample_data().resolve() / name).glob("*.png")) for name in ("owl", "fox"))
    run = write_run(context.runs / "two", photos=of_owl[0].parent)
    two = "".join(f'[[subjects]]\nimages = "{photos[0].parent}"\n' for photos in (of_owl, of_fox))
    (run / "config.toml").write_text(f'[model]\nbase = "sprite"\n{two}')
    sets, why = references.find(context, references.OF_THE_RUN, [[], [run]], None)
    assert sets == [[], []] and "two learned 2 subjects" in why
    sets, note = references.find(context, references.OF_THE_RUN, [[run], [owl.path]], None)
    assert sets == [of_owl, of_owl] and f"those of {owl.path.name} stand in" in note
    assert library._photo(context, RunFolder(run)) == of_owl[0]
    for broken in ("subjects = 3", "subject = 3", "[[subjects]]", "[subject]\nimages = 3", "x"):
        (run / "config.toml").write_text(broken)
        found, why = references.find(context, references.OF_THE_RUN, [[run]], None)
        assert found == [[]] and "does not say where its photos are" in why
        assert library._photo(context, RunFolder(run)) is None


def test_adapters_of_different_subjects_are_each_compared_with_their_own_photos(context, owl):
    of_owl, of_fox = (sorted((sample_data().resolve() / name).glob("*.png")) for name in ("owl", "fox"))
    fox = write_run(context.runs / "a fox", photos=sample_data().resolve() / "fox")
    unknown = write_adapter(context.runs / "unknown")
    exported = fox / "a fox.safetensors"  # beside its run
    asked = [[], [owl.path], [fox], [unknown], [exported]]
    sets, note = references.find(context, references.OF_THE_RUN, asked, None)
    assert sets == [of_owl + of_fox, of_owl, of_fox, of_owl, of_fox]
    assert "each with its own" in note and f"those of {owl.path.name} stand in" in note
    shutil.rmtree(fox)
    shutil.rmtree(unknown)


def vote(choice, dino_a=0.5, dino_b=0.2):
    return Vote("p, q", "p", 0, "base", "owl", choice, dino_a, dino_b)


def test_votes_are_counted_and_set_against_dino():
    votes = [vote(A), vote(A), vote(B), vote(NEITHER), vote(B, 0.1, 0.3), vote(A, None, None), vote(A, 0.5, 0.5)]
    assert [v.agrees for v in votes] == [True, True, False, None, True, None, None]
    k, n, p = blind.agreement(votes)
    assert (k, n) == (3, 4) and p == pytest.approx(5 / 16)  # 3 or 4 heads of 4
    assert blind.tally(votes) == {"base": (4, 6), "owl": (2, 6)}
    assert blind.agreement([vote(NEITHER)]) is None
    lines = blind.as_csv(votes).splitlines()
    assert len(lines) == 8 and lines[1] == '"p, q",p,0,base,owl,A,0.5,0.2,yes'
    assert lines[4].endswith(",neither,0.5,0.2,")
    assert "3 of 4" in blind.conclusion(votes)
    named = Vote("", "", 0, "<img src=x>", "a|b\nc", A, None, None)
    lines = blind.conclusion([named]).splitlines()
    assert r"| \<img src=x\> | 1 | 1 |" in lines and r"| a\|b c | 0 | 1 |" in lines


def test_the_variant_that_was_chosen_most_comes_first():
    wins = {"base": 1, "owl": 3, "fox": 2}
    votes = [Vote("", "", 0, name, "other", A, None, None) for name, count in wins.items() for _ in range(count)]
    lines = blind.conclusion(votes).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| owl", "| fox", "| base", "| other"]


def test_of_more_pairs_than_are_shown_any_may_be_and_in_any_order():
    drawn = [[pair.row for pair in blind.draw_pairs(100, 2, seed)] for seed in range(40)]
    assert set().union(*drawn) == set(range(100))
    assert all(rows != sorted(rows) for rows in drawn)


@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 1000))
def test_every_pair_is_shown_once_on_either_side(rows, columns, seed):
    pairs = blind.draw_pairs(rows, columns, seed)
    seen = {(pair.row, frozenset((pair.a, pair.b))) for pair in pairs}
    assert len(seen) == len(pairs) == min(blind.MAX_PAIRS, rows * columns * (columns - 1) // 2)
    assert all(pair.a != pair.b for pair in pairs)


def test_sides_are_drawn_fairly():
    pairs = [pair for seed in range(200) for pair in blind.draw_pairs(3, 2, seed)]
    assert 0.4 < sum(pair.a < pair.b for pair in pairs) / len(pairs) < 0.6


def test_pictures_are_kept_by_owner_and_go_to_the_trash(context):
    kept = history.History(context)
    mine, other = history.new_owner(), history.new_owner()
    settings = {"prompt": "a", "seed": 1, "steps": 2, "guidance": 1, "sampler": "base", "width": 600, "height": 400,
                "base": "sprite", "adapters": []}  # fmt: skip
    (file,) = kept.save(mine, [generation.Made(Image.new("RGB", (600, 400), "red"), settings)])
    assert kept.newest(mine) == [file] and kept.newest(other) == []
    with Image.open(kept.thumbnail(file)) as small:
        assert max(small.size) == history.THUMBNAIL
    assert kept.newest(mine) == [file]  # the thumbnail is none of them
    assert kept.clear(mine) == 1 and kept.newest(mine) == [] and len(list(context.trash.glob("*/*.png"))) == 1


def test_the_newest_pictures_come_first_and_of_one_request_the_last(context):
    kept, mine, taken = history.History(context), history.new_owner(), []
    for first in (0, 4):
        made = [generation.Made(Image.new("RGB", (8, 8)), {**SETTINGS, "seed": 9 - first - i}) for i in range(4)]
        taken += kept.save(mine, made, first)
    assert kept.newest(mine) == taken[::-1] and kept.newest(mine, 2) == taken[:-3:-1]


def test_two_users_whose_names_look_alike_have_folders_of_their_own():
    names = ["a.b", "a_b", "a/b", "..", "ab", "0" * 32]
    owners = [history.owner_of("f" * 32, SimpleNamespace(username=name)) for name in names]
    assert len({*owners, "0" * 32}) == len(names) + 1
    assert all(Path(owner).name == owner and not owner.startswith(".") for owner in owners)


@pytest.mark.parametrize("sent", ["../../etc", "x" * 32, "A" * 32, "0" * 31])
def test_a_browser_cannot_choose_its_name(sent):
    assert history.owner_of(None, None) != history.owner_of("", None)
    with pytest.raises(RequestError):
        history.owner_of(sent, None)


def test_a_stop_reaches_ones_own_work_only(context):
    studio = Studio(context)
    desk, begun = Desk(studio), threading.Event()

    def work(line):
        line.say("begun")
        begun.wait(60)
        assert line.stop.wait(0.01) or True
        if line.stop.is_set():
            raise Stopped("as asked")
        return "done"

    mine, other = desk.run("me", work), desk.run("you", work)
    assert next(mine) == Update("begun")
    assert desk.stop("nobody") is False
    results = {}

    def follow(name, events):
        try:
            while True:
                next(events)
        except StopIteration as end:
            results[name] = end.value
        except Stopped:
            results[name] = "stopped"

    threads = [threading.Thread(target=follow, args=x) for x in (("mine", mine), ("other", other))]
    for thread in threads:
        thread.start()
    assert desk.stop("me") is True
    begun.set()
    for thread in threads:
        thread.join(60)
    assert results == {"mine": "stopped", "other": "done"}
    studio.close()


def test_the_studio_keeps_what_is_on_and_takes_it_off_again(context, owl, monkeypatch):
    """On the real base: the same set is not attached twice, a changed file is, and none is left after all are off."""
    from symdream.interop import several

    attached = []
    original = several.attach_several
    monkeypatch.setattr(several, "attach_several", lambda *args: attached.append(args) or original(*args))
    studio = Studio(context)
    base = studio.base("sprite")
    assert studio.base("sprite") is base and "sprite is loaded" in studio.state

    def answer():
        generator = torch.Generator().manual_seed(0)
        x, text = torch.randn(1, 4, 16, 16, generator=generator), torch.randn(1, 7, 256, generator=generator)
        with torch.inference_mode():
            return base.unet(x, 500, text).sample

    alone = answer()
    for weight in (1.0, 0.5, 1.0):
        assert studio.wear("sprite", [Worn(owl.path, weight)])[0] is base
    assert len(attached) == 1 and not torch.equal(answer(), alone)
    file = owl.path / "adapter/unet/adapter_model.safetensors"
    write_adapter(context.runs / "new", seed=random.randrange(100, 200))
    file.write_bytes((context.runs / "new/adapter/unet/adapter_model.safetensors").read_bytes())
    studio.wear("sprite", [Worn(owl.path, 1.0)])
    assert len(attached) == 2
    write_adapter(context.runs / "wide", width=320)
    with pytest.raises(RequestError, match="^wide was made for another architecture"):
        studio.wear("sprite", [Worn(owl.path, 1.0), Worn(context.runs / "wide", 1.0)])
    assert torch.equal(answer(), alone)
    studio.wear("sprite", [Worn(owl.path, 1.0)])
    studio.wear("sprite", [])
    assert torch.equal(answer(), alone)
    studio.close()


def test_an_uploaded_adapter_stays_on_the_list_when_the_list_is_read_anew(context, owl):
    folder = context.uploads / "abc"
    folder.mkdir()
    sent = folder / "mine.safetensors"
    sent.write_bytes((owl.path / "adapter/unet/adapter_model.safetensors").read_bytes())
    dropdown, listed, dropped = adapter_rows.accept(context, [str(sent)], [str(owl.path)], [])
    assert dropdown.value == [str(owl.path), str(sent)] and dropdown.choices == listed and dropped == [str(sent)]
    offered = adapter_rows.offered
    for names in (listed, offered(context, dropdown.value, []), offered(context, [], dropped)):
        assert {path for _, path in names} == {str(owl.path), str(sent)}
    (folder / "words.safetensors").write_text("only words")
    shown, _, all_dropped = adapter_rows.accept(context, [str(folder / "words.safetensors")], [], dropped)
    assert shown.value == [] and all_dropped == dropped  # though it is not chosen any more
    sent.unlink()  # as every upload is after a day
    assert [path for _, path in adapter_rows.offered(context, [], dropped)] == [str(owl.path)]


def test_a_list_that_is_open_only_grows_at_its_end(context, owl):
    _, shown = adapter_rows.anew(context, [], [])
    assert [path for _, path in shown] == [str(owl.path)]
    assert adapter_rows.longer(context, [], [], shown) == (gr.skip(), gr.skip())
    write_run(context.runs / "newer", photos=sample_data())
    dropdown, grown = adapter_rows.longer(context, [], [], shown)
    assert dropdown.choices == grown and [path for _, path in grown] == [str(owl.path), str(context.runs / "newer")]
    shutil.rmtree(owl.path)
    assert adapter_rows.longer(context, [], [], grown) == (gr.skip(), gr.skip())
    assert [path for _, path in adapter_rows.anew(context, [], [])[1]] == [str(context.runs / "newer")]


def drop(context, name, seed):
    """A file as a browser sends it, in a folder that no other file of its name is in."""
    run = write_adapter(context.uploads / f"run {seed}", seed=seed)
    file = context.uploads / f"{seed:064x}" / name
    file.parent.mkdir()
    shutil.move(run / "adapter" / "unet" / "adapter_model.safetensors", file)
    shutil.rmtree(run)
    return str(file)


def test_a_dropped_file_is_known_by_its_content_wherever_it_is_by_then(context):
    first, second = (drop(context, "same name.safetensors", seed) for seed in (1, 2))
    entry = entry_of(context, Path(second), 0.5)
    assert entry == {"name": "same name.safetensors", "weight": 0.5, "sha256": file_sha256(Path(second))}
    assert adapter_rows.remembered(context, [entry], [first, second]) == {second: 0.5}
    # Another file of its name is not it, in the runs folder either.
    shutil.copy(first, context.runs / "same name.safetensors")
    for others in ([], [first]):
        with pytest.warns(UserWarning, match="drop the file again"):
            assert adapter_rows.remembered(context, [entry], others) == {}
    shutil.copy(second, context.runs / "same name.safetensors")
    found = adapter_rows.remembered(context, [entry], [first])
    assert found == {str(context.runs / "same name.safetensors"): 0.5}


def test_an_adapter_that_is_told_by_its_name_alone_is_looked_for_in_the_runs_folder_first(context, owl):
    """As in pictures of `symdream generate`."""
    dropped = [drop(context, "owl", 1), drop(context, "few.safetensors", 2)]
    names = [{"name": "owl"}, {"name": "few.safetensors", "weight": 0.5}]
    assert adapter_rows.remembered(context, names, dropped) == {str(owl.path): 1, dropped[1]: 0.5}
    dropped.append(drop(context, "few.safetensors", 3))
    with pytest.warns(UserWarning, match="Left out: few.safetensors"):
        assert adapter_rows.remembered(context, names, dropped) == {str(owl.path): 1}


def test_dropped_files_of_one_name_are_numbered_in_the_list(context, owl):
    same, other = [drop(context, "pytorch_lora_weights.safetensors", seed) for seed in (1, 2)], drop(context, "a", 3)
    assert [label for label, _ in adapter_rows.offered(context, [], [same[0], other])[1:]] == [Path(same[0]).name, "a"]
    names = {path: name for name, path in adapter_rows.offered(context, [other], [*same, other])}
    numbered = [f"pytorch_lora_weights.safetensors ({number})" for number in (1, 2)]
    assert [names[path] for path in same] == numbered and names[other] == "a"
    # Nothing in the runs folder gets another name than it has there.
    shutil.copy(same[0], mine := context.runs / "pytorch_lora_weights.safetensors")
    names = {path: name for name, path in adapter_rows.offered(context, [], same)}
    assert names[str(mine)].startswith(f"{mine.name} · ")
    assert [names[path] for path in same] == [f"{mine.name} ({number})" for number in (2, 3)]
