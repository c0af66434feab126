from __future__ import annotations

import re

import pytest
from helpers.runs import make_photos
from helpers.tiny_bases import adapted, tiny_base, write_base

from benchmarks import compression
from symdream.interop.arithmetic import compress_to_rank, scale
from symdream.interop.collect import collect
from symdream.interop.lora_file import write_lora

PROMPTS = 'class_noun = "toy"\n[[prompt]]\ntext = "a {subject}"\nheld_out = true\n'


def test_the_whole_adapter_has_no_error_none_has_all_and_a_part_lies_between(tmp_path, capsys, few_denoising_steps):
    base = write_base(tiny_base("sd1"), tmp_path / "base")
    metadata = {"trigger": "sks", "class_noun": "toy", "base": {"identity": str(base)}}
    adapter = collect(adapted("sd1", "lora").components(), metadata=metadata)
    (tmp_path / "prompts.toml").write_text(PROMPTS)
    kinds = {"whole": adapter, "part": compress_to_rank(adapter, 3), "none": scale(adapter, 0.0)}
    for name, kept in kinds.items():
        write_lora(kept, tmp_path / f"{name}.safetensors", "diffusers")
    files = [str(tmp_path / f"{name}.safetensors") for name in kinds]
    photos = make_photos(tmp_path / "photos", count=2)
    compression.main([files[0], str(tmp_path / "prompts.toml"), *files, "--photos", str(photos), "--seeds", "2"])
    said = capsys.readouterr().out
    changes = re.findall(r": ([+-][\d.]+) ± ([\d.]+)", said)
    assert len(changes) == 3 and changes[0] == ("+0.000", "0.000") and changes[2] != changes[0]
    whole, part, none = map(float, re.findall(r"error ([\d.]+)", said))
    assert whole == 0 and none == 1 and 0 < part < 1


def test_the_interval_is_the_t_interval_of_the_mean():
    # By hand: mean 2, standard error 1 / sqrt(3), t = 4.303 with two degrees of freedom.
    mean, half = compression.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-3))
