"""The endpoints through gradio_client against a real server in a process of its own."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from symdream.data.samples import sample_data
from symdream.diffusion.png import read_settings

PROMPT = "a 3d render of a bird on a red background"
QUICK = {"steps": 2, "guidance": 1}


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("fetched")))


def pixels(file) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def close(one, two) -> bool:
    """Equal up to rounding: another batch, or another number of threads, adds up in another order."""
    return max(abs(a - b) for a, b in zip(pixels(one), pixels(two), strict=True)) <= 1


def refused(client, api_name, **arguments) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(**arguments, api_name=api_name)
    message = str(caught.value)
    assert "Traceback" not in message and ".py" not in message
    return message


def test_generate_gives_pngs_that_carry_their_settings(client):
    result = client.predict(
        prompt="a 3d render of a {subject} on a red background", adapters=[{"name": "owl", "weight": 0.5}], seed=7,
        count=2, width=64, height=96, **QUICK, api_name="/generate",
    )  # fmt: skip
    assert len(result["images"]) == 2 and result["notes"] == []
    for number, (file, told) in enumerate(zip(result["images"], result["settings"], strict=True)):
        with Image.open(file) as image:
            assert image.format == "PNG" and image.size == (64, 96)
        settings = read_settings(Path(file))
        assert settings == told
        assert settings["prompt"] == "a 3d render of a sks bird on a red background" and settings["seed"] == 7 + number
        assert settings["adapters"] == [{"name": "owl", "weight": 0.5}] and settings["base"] == "sprite"


def test_the_negative_prompt_is_filled_in_and_told_where_it_is_cut_off(client):
    result = client.predict(
        prompt="a {subject}", negative_prompt="a red {subject} " + "on grass " * 60 + "at night",
        adapters=[{"name": "owl"}], width=64, height=64, **QUICK | {"guidance": 2}, api_name="/generate",
    )  # fmt: skip
    assert result["settings"][0]["negative_prompt"].startswith("a red sks bird on grass")
    [note] = result["notes"]
    assert "negative prompt is longer" in note and "at night" in note


def test_a_negative_prompt_without_effect_is_told(client):
    [note] = client.predict(prompt=PROMPT, negative_prompt="blue", **QUICK, api_name="/generate")["notes"]
    assert "no effect at guidance 1" in note


def test_the_same_request_gives_the_same_picture_and_adapters_go_without_a_trace(client):
    first = client.predict(prompt=PROMPT, **QUICK, api_name="/generate")
    worn = client.predict(prompt=PROMPT, adapters=[{"name": "owl"}], **QUICK, api_name="/generate")
    off = client.predict(prompt=PROMPT, adapters=[{"name": "owl", "weight": 0}], **QUICK, api_name="/generate")
    both = client.predict(prompt=PROMPT, adapters=[{"name": "owl"}, {"name": "owl two"}], **QUICK, api_name="/generate")
    again = client.predict(prompt=PROMPT, **QUICK, api_name="/generate")
    assert pixels(first["images"][0]) == pixels(again["images"][0]) != pixels(worn["images"][0])
    assert pixels(off["images"][0]) == pixels(first["images"][0])
    assert pixels(both["images"][0]) not in (pixels(worn["images"][0]), pixels(first["images"][0]))


def test_the_picture_is_the_librarys_own(client, tmp_path):
    from symdream.diffusion.base import load_base
    from symdream.diffusion.sampling import sample

    result = client.predict(prompt=PROMPT, seed=3, **QUICK, api_name="/generate")
    expected = sample(load_base("sprite"), [PROMPT], [3], **QUICK)[0]
    expected.save(tmp_path / "expected.png")
    assert close(result["images"][0], tmp_path / "expected.png")


def test_three_users_at_once_get_their_own_pictures(server, client, tmp_path):
    alone = {
        seed: pixels(client.predict(prompt=PROMPT, seed=seed, **QUICK, api_name="/generate")["images"][0])
        for seed in (11, 12, 13)
    }

    def user(seed):
        mine = Client(server.url, verbose=False, download_files=str(tmp_path / str(seed)))
        jobs = [mine.submit(prompt=PROMPT, seed=seed, **QUICK, api_name="/generate") for _ in range(2)]
        return seed, [job.result(timeout=300) for job in jobs]

    with ThreadPoolExecutor(3) as users:
        for seed, results in users.map(user, alone):
            for result in results:
                assert result["settings"][0]["seed"] == seed and pixels(result["images"][0]) == alone[seed]


def test_compare_scores_every_cell_against_the_runs_photos(client):
    result = client.predict(
        prompts=["a 3d render of a {subject} on a red background"],
        adapters=["owl", "owl two"],
        seeds=[0, 1],
        **QUICK,
        api_name="/compare",
    )
    assert [(c["variant"], c["seed"]) for c in result["cells"]] == [
        (variant, seed) for seed in (0, 1) for variant in ("base alone", "owl", "owl two")
    ]
    assert all(-1 <= c["dino"] <= 1 and -1 <= c["clip_t"] <= 1 for c in result["cells"])
    assert all(c["prompt"] == "a 3d render of a sks bird on a red background" for c in result["cells"])
    assert [m["variant"] for m in result["means"]] == ["base alone", "owl", "owl two"]
    of_owl = [c["dino"] for c in result["cells"] if c["variant"] == "owl"]
    assert result["means"][1]["dino"] == pytest.approx(sum(of_owl) / 2)
    with Image.open(result["grid"]) as grid:
        assert grid.width > 3 * 128 and grid.height > 2 * 128
    single = client.predict(
        prompt="a 3d render of a sks bird on a red background",
        adapters=[{"name": "owl two"}],
        seed=1,
        **QUICK,
        api_name="/generate",
    )
    assert close(single["images"][0], result["cells"][5]["image"])


def test_beside_an_adapter_of_another_subject_an_adapter_has_the_scores_that_it_has_alone(client, server):
    """Each is compared with its own photos, and its own trigger is left out of CLIP-T's texts."""
    from helpers import app_server

    other = app_server.write_run(server.runs / "other word", photos=sample_data().resolve() / "fox", trigger="zwx")
    try:
        asked = {"prompts": ["a 3d render of a {subject} on a red background"], "seeds": [0], **QUICK}
        results = [
            client.predict(**asked, adapters=adapters, api_name="/compare")
            for adapters in (["other word"], ["owl", "other word"])
        ]
    finally:
        shutil.rmtree(other)
    alone, both = (result["cells"][-1] for result in results)
    assert both["prompt"] == alone["prompt"] == "a 3d render of a zwx bird on a red background"
    assert (both["dino"], both["clip_t"]) == pytest.approx((alone["dino"], alone["clip_t"]), abs=1e-4)
    assert any("each with its own" in note for note in results[1]["notes"])


def test_compare_makes_its_pictures_as_asked_and_tells_what_to_know(client):
    asked = {"negative_prompt": "blue", "sampler": "ddim", "steps": 2, "guidance": 2}
    result = client.predict(
        prompts=["a toy"], adapters=["owl two", "owl"], seeds=[5], base_too=False, photos="none", **asked,
        api_name="/compare",
    )  # fmt: skip
    assert [cell["variant"] for cell in result["cells"]] == ["owl two", "owl"]
    for cell in result["cells"]:
        settings = read_settings(Path(cell["image"]))
        assert settings["adapters"] == [{"name": cell["variant"], "weight": 1.0}] and settings["seed"] == 5
        assert {key: settings[key] for key in asked} == asked
    assert [note.partition(" answers to")[0] for note in result["notes"]] == ["owl two", "owl"]


def test_compare_across_weights_and_without_photos(client):
    result = client.predict(
        prompts=[PROMPT], adapters=["owl"], seeds=[0], weights=[1.5, 0], photos="none", **QUICK, api_name="/compare"
    )
    assert [c["variant"] for c in result["cells"]] == ["owl × 0", "owl × 1.5"]
    assert all(c["dino"] is None for c in result["cells"]) and result["means"] == []
    assert pixels(result["cells"][0]["image"]) != pixels(result["cells"][1]["image"])


def test_a_long_prompt_says_what_is_cut(client):
    words = ["cat"] * 75 + ["dog"] * 424 + ["owl"]  # of one token each
    result = client.predict(prompt=" ".join(words), **QUICK, api_name="/generate")
    (note,) = result["notes"]
    assert "longer than the text encoder reads" in note
    cut = note.split('"')[1].split()
    assert cut == words[75:]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "a", "width": 100}, "multiple of 8"),
        ({"prompt": "a", "width": 1024, "height": 1024}, "too many for sprite"),
        ({"prompt": "a", "steps": 0}, "from 1 to 999"),
        ({"prompt": "a", "count": 500}, "from 1 to 16"),
        ({"prompt": "a", "seed": -1}, "from 0"),
        ({"prompt": "a", "sampler": "magic"}, "one of base, ddim"),
        ({"prompt": "a", "base": "sprte"}, "did you mean"),
        ({"prompt": "a", "base": "/etc"}, "outside the folders"),
        ({"prompt": "a", "base": "model.ckpt"}, "pickle"),
        ({"prompt": "a", "adapters": [{"name": "../secret"}]}, "not a path inside"),
        ({"prompt": "a", "adapters": [{"name": "/etc/passwd"}]}, "outside the folders"),
        ({"prompt": "a", "adapters": [{"name": "nobody"}]}, 'no "nobody"'),
        ({"prompt": "a", "adapters": [{"name": "owl", "wieght": 1}]}, "weight"),
        ({"prompt": "a", "adapters": [{"name": "owl", "weight": "1"}]}, "must be a number"),
        ({"prompt": "a {subject}"}, "No adapter here says"),
        ({"prompt": "a", "steps": "many"}, "steps"),
        ({"prompt": "a", "adapters": ["owl", 3]}, "adapters[1]"),
        ({"prompt": None, "seed": [1]}, "2 problems"),
    ],
)
def test_a_wrong_request_gets_a_plain_message_and_the_app_lives_on(client, arguments, expected):
    assert expected in refused(client, "/generate", **arguments)


def test_a_comparison_of_something_else_than_lists_is_refused(client):
    message = refused(client, "/compare", prompts="a bird", adapters=["owl"], seeds=["one"])
    assert "prompts" in message and "seeds[0]" in message and "3d" not in message


def test_weights_are_for_one_adapter(client):
    asked = {"prompts": ["a"], "adapters": ["owl", "owl two"], "seeds": [0], "weights": [0, 1]}
    assert "weights  are for one adapter, not for 2" in refused(client, "/compare", **asked)


def test_several_mistakes_are_told_together(client):
    message = refused(client, "/generate", prompt="", steps=0, count=0)
    assert "3 problems" in message and all(word in message for word in ("prompt", "steps", "count"))


def test_adapters_that_cannot_be_used_are_refused_and_the_app_lives_on(server, client):
    from helpers.app_server import write_adapter

    write_adapter(server.runs / "other width", width=320)
    broken = server.runs / "broken.safetensors"
    broken.write_bytes((server.runs / "owl/adapter/unet/adapter_model.safetensors").read_bytes()[:700])
    (server.runs / "text.safetensors").write_text("not at all")
    outside = server.runs.parent / "outside"
    write_adapter(outside)
    (server.runs / "link").symlink_to(outside)
    for name, expected in {
        "other width": "another architecture",
        "broken.safetensors": "broken.safetensors",
        "text.safetensors": "text.safetensors",
        "link": "outside the folders",
    }.items():
        assert expected in refused(client, "/generate", prompt="a", adapters=[{"name": name}], **QUICK)
    alone = client.predict(prompt=PROMPT, **QUICK, api_name="/generate")
    worn = client.predict(prompt=PROMPT, adapters=[{"name": "owl"}], **QUICK, api_name="/generate")
    assert pixels(alone["images"][0]) != pixels(worn["images"][0])


def test_an_uploaded_adapter_is_used_like_one_in_the_runs_folder(server, client):
    import httpx

    file = server.runs / "owl/adapter/unet/adapter_model.safetensors"
    with file.open("rb") as stream:
        sent = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("mine.safetensors", stream)}).json()
    here = client.predict(prompt=PROMPT, adapters=[{"name": sent[0]}], **QUICK, api_name="/generate")
    there = client.predict(prompt=PROMPT, adapters=[{"name": "owl"}], **QUICK, api_name="/generate")
    assert pixels(here["images"][0]) == pixels(there["images"][0])


def test_the_endpoints_have_their_stable_names(client):
    told = client.view_api(return_format="dict")["named_endpoints"]
    training = {f"/train_{verb}" for verb in ("start", "status", "stop", "resume")}
    ours = {"/generate", "/compare", "/export", "/inspect"} | training
    assert told.keys() == ours
    names = [p["parameter_name"] for p in told["/generate"]["parameters"]]
    assert names[:3] == ["prompt", "adapters", "base"]


def test_no_file_outside_of_the_apps_cache_is_served(server):
    import httpx

    (server.runs / "secret.txt").write_text("s3cret")
    for path in ("/etc/passwd", str(server.runs / "secret.txt"), str(server.runs / "owl" / "config.toml"),
                 str(server.runs / ".app" / "app.log"), "../../etc/passwd"):  # fmt: skip
        answer = httpx.get(f"{server.url}/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path
        assert "s3cret" not in answer.text and "root:" not in answer.text


def test_pictures_of_programs_lie_in_one_folder(server, client):
    client.predict(prompt=PROMPT, **QUICK, api_name="/generate")
    asked = {"prompts": [PROMPT], "adapters": ["owl"], "photos": "none", **QUICK}
    grids = [client.predict(**asked, seeds=[seed], api_name="/compare")["grid"] for seed in (0, 1)]
    assert [folder.name for folder in (server.runs / ".app" / "images").iterdir()] == ["api"]
    assert pixels(grids[0]) != pixels(grids[1])


def test_the_log_has_what_the_browser_does_not(server, client):
    refused(client, "/generate", prompt="")
    assert "refused: 1 problem in the request" in (server.runs / ".app" / "app.log").read_text()
