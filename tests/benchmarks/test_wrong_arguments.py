"""A wrong argument ends in one line that names what there is, before anything is loaded or measured."""

import sys

import pytest

from benchmarks import checkpoint_cost, prior_preservation, rows, step_gpu, throughput_cpu, tune

WRONG = [
    (lambda: rows.main(step_gpu.__doc__, step_gpu.rows), ["--shape", "foo"], "sdxl"),
    (throughput_cpu.main, ["--method", "singlor"], "singlora"),
    (checkpoint_cost.main, ["--method", "singlor"], "singlora"),
    (checkpoint_cost.main, ["--steps", "1"], "--steps must be at least 2"),
    (prior_preservation.main, ["-o", "runs", "--method", "singlor"], "singlora"),
    (prior_preservation.main, ["-o", "runs", "--subject", "nothing"], "nothing has no prompts.toml"),
    (tune.main, ["-o", "tune.jsonl", "--methods", "singlor"], "singlora"),
    (tune.main, ["-o", "tune.jsonl", "--subjects", "owls"], "cupcake"),
]


@pytest.mark.parametrize(("main", "words", "said"), WRONG, ids=[" ".join(words) for _, words, _ in WRONG])
def test_a_wrong_argument_is_refused_in_words(main, words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert said in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())


def test_the_sample_subjects_are_found_from_any_folder(monkeypatch, tmp_path):
    class Found(Exception):
        pass

    def load_dino(*_, **__):
        raise Found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "-o", "runs"])
    monkeypatch.setattr(prior_preservation, "load_dino", load_dino)
    with pytest.raises(Found):  # its subject's prompts were read by then
        prior_preservation.main()
