import pytest

from symdream.diffusion.names import ALIASES, resolve_name
from symdream.errors import RequestError


def test_each_kind_of_name_is_recognised(tmp_path):
    file = tmp_path / "my model.safetensors"
    file.touch()
    assert resolve_name("sprite").kind == "embedded"
    assert (resolve_name("sd15").kind, resolve_name("sd15").repo) == ("hub", ALIASES["sd15"])
    assert resolve_name("owner/some-model.v2").repo == "owner/some-model.v2"
    pinned = resolve_name("owner/model@refs/pr/3")
    assert (pinned.repo, pinned.revision) == ("owner/model", "refs/pr/3")
    assert resolve_name(str(tmp_path)).kind == "folder"
    assert resolve_name(str(file)).kind == "file"


def test_an_existing_folder_wins_over_a_hub_id_of_the_same_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_name("owner/model").kind == "hub"
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert resolve_name("owner/model").kind == "folder"


@pytest.mark.parametrize("name", ["model.ckpt", "/data/model.pt", "x/y.bin", "weights.PTH", "hub-user/name.ckpt"])
def test_a_pickle_is_refused_with_reason_and_way_out_whether_or_not_it_exists(name):
    with pytest.raises(RequestError) as caught:
        resolve_name(name)
    assert "pickle" in caught.value.what
    assert "run any program" in caught.value.what
    assert ".safetensors" in caught.value.fix


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "~nobody/x", "missing.safetensors"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(name):
    with pytest.raises(RequestError, match="There is no base at"):
        resolve_name(name)


@pytest.mark.parametrize(("typo", "meant"), [("sprit", "sprite"), ("sd1.5", "sd15"), ("sdlx", "sdxl")])
def test_a_typo_gets_a_suggestion(typo, meant):
    with pytest.raises(RequestError, match=f'did you mean "{meant}"'):
        resolve_name(typo)
