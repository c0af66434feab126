"""Fetching encoders, from a hub that runs on this machine."""

import pytest
from helpers.encoder_folders import write_pickle_only, write_vit
from helpers.encoder_hub import serving

from symdream.errors import RequestError
from symdream.metrics.model_files import CONVERTED, find_model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with serving() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = write_vit(tmp_path_factory.mktemp("hub") / "vit")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture(scope="module")
def pickle(tmp_path_factory):
    return write_pickle_only(tmp_path_factory.mktemp("hub") / "pickle")


def test_a_model_is_fetched_once_without_its_pickle(hub, vit):
    commit = hub.add("someone/dino", vit)
    found = find_model("someone/dino", what="DINO encoder")
    assert (found.model, found.revision) == ("someone/dino", commit)
    assert [path.name for path in found.weights] == ["model.safetensors"]
    assert found.weights[0].read_bytes() == (vit / "model.safetensors").read_bytes()
    assert not (found.folder / "pytorch_model.bin").exists()
    hub.requests.clear()
    assert find_model("someone/dino", what="DINO encoder") == found
    assert hub.requests == []


def test_where_main_is_a_pickle_the_hubs_own_conversion_is_taken(hub, vit, pickle):
    hub.add("someone/dino", pickle)
    hub.propose("someone/dino", 3, vit, author="a stranger")
    commit = hub.propose("someone/dino", 4, vit, author="SFconvertbot")
    found = find_model("someone/dino", what="DINO encoder")
    assert found.revision == commit
    assert find_model("someone/dino", what="DINO encoder") == found  # now from the cache, by the request's own ref


def test_a_strangers_conversion_is_not_trusted(hub, vit, pickle):
    hub.add("someone/dino", pickle)
    hub.propose("someone/dino", 3, vit, author="a stranger")
    hub.propose("someone/dino", 4, vit, author="SFconvertbot", status="closed")
    with pytest.raises(RequestError, match="only as a pickle"):
        find_model("someone/dino", what="DINO encoder")


def test_the_standard_clip_is_taken_from_its_known_conversion(hub, vit, pickle):
    (repo, revision), *_ = CONVERTED.items()
    hub.add(repo, pickle)
    commit = hub.add(repo, vit, revision=revision)
    assert find_model(repo, what="CLIP encoder").revision == commit
    assert find_model(repo, what="CLIP encoder").revision == commit


def test_a_named_revision_is_the_one_taken(hub, vit, tmp_path):
    hub.add("someone/dino", vit)
    commit = hub.add("someone/dino", write_vit(tmp_path / "old"), revision="v1")
    assert find_model("someone/dino@v1", what="DINO encoder").revision == commit
    with pytest.raises(RequestError, match="no revision v9"):
        find_model("someone/dino@v9", what="DINO encoder")


def test_a_wrong_name_a_gate_and_a_dead_network_are_told_apart(hub, vit, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(RequestError, match="no DINO encoder someone/nothing on the hub"):
        find_model("someone/nothing", what="DINO encoder")
    hub.gated.add("someone/gated")
    with pytest.raises(RequestError, match="is gated"):
        find_model("someone/gated", what="DINO encoder")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RequestError, match="could not be fetched"):
        find_model("someone/dino", what="DINO encoder")
