import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symdream.config import TrainConfig
from symdream.errors import Problem, Problems, RequestError
from symdream.settings import build, merge, read_toml, to_toml


def problems_of(nested, **kwargs):
    with pytest.raises(Problems) as caught:
        build(nested, **kwargs)
    return {p.key: p.message for p in caught.value.problems}


def test_all_problems_are_told_at_once():
    found = problems_of(
        {
            "adapter": {"rank": 0, "method": "loha", "lerning_rate": 1},
            "training": {"lr": -1.0, "steps": "many"},
            "trainng": {"steps": 3},
            "subject": {"trigger": ""},
        }
    )
    assert set(found) == {
        "adapter.rank = 0",
        "adapter.method = loha",
        "adapter.lerning_rate",
        "training.lr = -1.0",
        "training.steps = many",
        "trainng",
        "subject.trigger",
    }


def test_a_wrong_value_is_told_once_though_checks_find_it_missing():
    checks = (lambda config: [Problem("subject.class_noun", "is needed"), Problem("subject.images", "is needed")],)
    with pytest.raises(Problems) as caught:
        build({"subject": {"class_noun": ""}}, checks=checks)
    assert [p.key for p in caught.value.problems] == ["subject.class_noun", "subject.images"]


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("adapter", "rnk", 'did you mean "rank"?'),
        ("training", "learning_rate", 'did you mean "lr"?'),
        ("training", "rank", "it belongs in [adapter]"),
        ("adapter", "max_train_step", 'did you mean "steps" in [training]?'),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(section, key, hint):
    assert hint in problems_of({section: {key: 1}})[f"{section}.{key}"]


def test_conflicts_are_found_beside_wrong_values():
    found = problems_of({"adapter": {"method": "lora", "ramp": 0.1, "rank": -3}})
    assert set(found) == {"adapter.rank = -3", "adapter.ramp"}


def test_the_command_line_wins_over_toml_and_toml_over_defaults():
    merged = merge({"adapter": {"rank": 4, "method": "dora"}}, {"rank": 16})
    config = build(merged)
    assert (config.adapter.rank, config.adapter.method, config.training.steps) == (16, "dora", 200)


@given(
    rank=st.integers(1, 512),
    lr=st.none() | st.floats(1e-8, 1.0),
    trigger=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"]), min_size=1),
    prompts=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))),
)
def test_settings_survive_toml(rank, lr, trigger, prompts):
    config = build(
        {
            "adapter": {"rank": rank},
            "training": {"lr": lr},
            "subject": {"trigger": trigger},
            "output": {"sample_prompts": prompts},
        }
    )
    assert build(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize("content", [b"[adapter\nrank = 8", b"\xff\xfe\x00", b"rank"])
def test_a_broken_settings_file_is_named(tmp_path, content):
    path = tmp_path / "é settings.toml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="é settings"):
        read_toml(path)


def test_a_byte_order_mark_is_no_part_of_the_settings(tmp_path):
    path = tmp_path / "notepad.toml"
    path.write_text("[adapter]\nrank = 3\n", encoding="utf-8-sig")
    assert read_toml(path) == {"adapter": {"rank": 3}}


@pytest.mark.parametrize("wrong", ["x", [{"images": "a"}], 3])
def test_a_section_that_is_no_table_is_told_beside_flags_of_it(wrong):
    merged = merge({"subject": wrong}, {"class_noun": "dog", "rank": 16})
    assert list(problems_of(merged))[0].startswith("subject")


def test_a_missing_settings_file_is_named(tmp_path):
    with pytest.raises(RequestError, match="nowhere.toml"):
        read_toml(tmp_path / "nowhere.toml")


def test_a_default_config_is_valid():
    assert build({}) == TrainConfig()
