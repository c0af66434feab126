"""Which prompts a run is judged by, and the word where it was selected on them."""

import pytest

from symdream.bench.subjects import read_subjects
from symdream.config import Subject
from symdream.files import write_json
from symdream.metrics.prompts import PHOTO_SELECTION, SPRITE_SELECTION, Prompt, PromptSet, selection_prompts
from symdream.metrics.run_prompts import tell_selected_on
from symdream.training.run_folder import RunFolder

RED, BLUE = "a flat icon of a {subject} on a red background", "a flat icon of a {subject} on a blue background"


@pytest.fixture
def run(tmp_path):
    """A run whose step was chosen by RED, as training writes it."""
    filled = RED.replace("{subject}", "sks bird")
    write_json(tmp_path / "selection.json", {"protocol": {"prompts": [[filled, filled]]}})
    return RunFolder(tmp_path)


def told(run, *prompts):
    subject = Subject(images=run.path, class_noun="bird")
    tell_selected_on(run, [subject], [PromptSet([Prompt(text) for text in prompts])])


def test_prompts_that_chose_the_step_are_told(run, capsys):
    told(run, BLUE, RED)
    note = capsys.readouterr().err
    assert "1 of these 2 prompts" in note and "a sks bird on a red" in note and "--prompts FILE" in note


def test_others_are_not(run, capsys, tmp_path_factory):
    told(run, BLUE)
    told(RunFolder(tmp_path_factory.mktemp("not selected")), RED)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("embedded", "general"), [(True, SPRITE_SELECTION), (False, PHOTO_SELECTION)])
def test_where_all_prompts_are_held_out_choices_are_made_by_scenes_that_the_base_knows(tmp_path, embedded, general):
    assert selection_prompts(None, embedded) == general
    (tmp_path / "owl").mkdir()
    file = tmp_path / "owl" / "prompts.toml"
    file.write_text(f'class_noun = "bird"\n[[prompt]]\ntext = "{RED}"\n', encoding="utf-8")
    assert read_subjects(tmp_path, embedded=embedded)["owl"].selection == [p.text for p in general.prompts]
    file.write_text(file.read_text() + f'[[prompt]]\ntext = "{BLUE}"\nheld_out = false\n', encoding="utf-8")
    owl = read_subjects(tmp_path, embedded=embedded)["owl"]
    assert (owl.prompts, owl.selection) == ([RED], [BLUE])
