"""Which base a name from a page means, and what of it is refused."""

import json

import pytest

from symdream.errors import RequestError

pytest.importorskip("gradio")

from symdream_apps.bases import USUAL_RESOLUTION, checked_base, side_of  # noqa: E402
from symdream_apps.context import Context  # noqa: E402
from symdream_apps.train_page import _report  # noqa: E402


@pytest.fixture
def context(tmp_path):
    return Context.at(tmp_path / "runs é")


@pytest.mark.parametrize("name", ["sprite", "sd15", "sdxl", "owner/name", "owner/name@v1.0"])
def test_known_names_and_hub_ids_are_taken_as_they_are(context, name):
    assert checked_base(context, f" {name} ") == name


@pytest.mark.parametrize(
    "name",
    [None, "", " ", "nothing", "sd-15", "/etc", "..", "../x", "owner/..", "a" * 300, "a\0b", "\ud800"]
    + ["~/x", "~nobody/x", "./x", "x/y/z", "nothing.safetensors"],
)
def test_what_is_no_base_or_lies_outside_is_refused(context, name):
    with pytest.raises(RequestError):
        checked_base(context, name)


def test_a_misspelt_name_is_told_what_it_may_have_been(context):
    with pytest.raises(RequestError, match='did you mean "sd15"'):
        checked_base(context, "sd-15")


def test_a_path_in_the_runs_folder_wins_over_a_hub_id_of_the_same_spelling(context, tmp_path, monkeypatch):
    base = context.runs / "owner" / "name"
    base.mkdir(parents=True)
    for name in ("owner/name", "./owner/name", str(base)):
        assert checked_base(context, name) == str(base)
    monkeypatch.chdir(tmp_path)
    assert checked_base(context, "runs é/owner/name") == str(base)


def test_a_path_of_the_working_folder_outside_is_refused_though_it_is_spelt_as_a_hub_id(context, tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="outside"):
        checked_base(context, "owner/name")


def test_a_pickle_is_refused_before_anything_is_queued(context):
    (context.runs / "base.ckpt").touch()
    with pytest.raises(RequestError, match="pickle"):
        checked_base(context, "base.ckpt")


def write_configs(folder):
    """What tells of a base that its pictures have 24 pixels a side."""
    for part, config in (("unet", {"sample_size": 12}), ("vae", {"block_out_channels": [8, 8]})):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["{}/outside", "../outside", "outside", "link", "no base", "", None, " sd-15"])
def test_a_base_that_is_refused_or_lies_outside_of_the_folders_changes_nothing_on_the_pages(
    context, tmp_path, monkeypatch, name
):
    (context.runs / "link").symlink_to(write_configs(tmp_path / "outside"))
    monkeypatch.chdir(tmp_path)
    name = name and name.format(tmp_path)
    assert side_of(context, name) == USUAL_RESOLUTION
    report, _ = _report(context, None, "owl", name)
    assert {photo.crop.size for photo in report.photos} == {(USUAL_RESOLUTION, USUAL_RESOLUTION)}


@pytest.mark.parametrize("name", ["mine", "./mine", " mine ", "{}/mine"])
def test_the_photos_are_cut_to_the_size_of_the_base_that_is_trained(context, name):
    write_configs(context.runs / "mine")
    report, _ = _report(context, None, "owl", name.format(context.runs))
    assert {photo.crop.size for photo in report.photos} == {(24, 24)}
    assert {photo.crop.size for photo in _report(context, None, "owl", " sprite ")[0].photos} == {(128, 128)}
