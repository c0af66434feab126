"""Which base a name from a page means, and what of it is refused."""

import pytest

from symdream.errors import RequestError

pytest.importorskip("gradio")

from symdream_apps.bases import checked_base  # noqa: E402
from symdream_apps.context import Context  # noqa: E402


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
    with pytest.raises(RequestError, match='Did you mean "sd15"'):
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
