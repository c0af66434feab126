"""The graph engine's code, which on a CPU runs unrecorded, against the eager engine."""

import copy
import json

import pytest
import torch
from helpers.runs import adapter_tensors, assert_resumes_exactly, make_photos, train_tiny

from symdream.diffusion import graph_engine
from symdream.diffusion.adapters import attach, train_adapters
from symdream.diffusion.base import load_base
from symdream.diffusion.batch import Batch
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.conditioning import encode, tokenize
from symdream.diffusion.eager_engine import EagerEngine
from symdream.diffusion.engine import StepParts, choose_engine
from symdream.diffusion.graph_engine import GraphEngine
from symdream.tuners import METHODS, find_ramps, param_groups

CAPTIONS = ["a sks toy", "a toy", ""]


class OneProcess:
    num_processes = 1


def parts(folder, method="singlora", *, components="both", optimizer=torch.optim.AdamW, seed=0, **given):
    """A fresh adapter on a tiny base with all that a step needs, and the base."""
    base = load_base(str(folder))
    chosen = base.chosen(components)
    trainable = attach(base, method, 4, 4.0, "qkvo", chosen, 0.0, seed)
    train_adapters(base, chosen)
    groups = [g for c, named in trainable.items() for g in param_groups(method, named.items(), 1e-3, name=c)]
    for group in groups:
        group["base_lr"] = group["lr"]
    gamma = given.pop("min_snr_gamma", None)
    given = {
        "parameters": [p for group in groups for p in group["params"]],
        "accelerator": OneProcess(),
        "ramps": [ramp for c in chosen for ramp in find_ramps(base.components()[c])],
        "max_grad_norm": 1.0,
        "captions": 2,
    } | given
    loss = BatchLoss(base, train_text_encoder="text_encoder" in chosen, min_snr_gamma=gamma)
    return base, StepParts(loss=loss, optimizer=optimizer(groups, weight_decay=1e-2), **given)


def make_batch(base, number, *, size=(8, 16), frozen_text=False):
    """Two samples whose captions are one or two, by `number`.

    Sizes that leave two keys to every attention: with one, its projections' gradient is nothing but rounding.
    """
    generator = torch.Generator().manual_seed(number)
    captions = torch.tensor([0, number % 2])
    ids = tokenize(base, CAPTIONS[: 1 + number % 2])
    with torch.no_grad():
        text = encode(base, ids) if frozen_text else None
    return Batch(
        x0=torch.randn(2, 4, *size, generator=generator),
        noise=torch.randn(2, 4, *size, generator=generator),
        timesteps=torch.randint(0, 1000, (2,), generator=generator),
        captions=captions,
        token_ids=ids,
        text=text,
        weights=torch.tensor([2.0, 1.0]),
    )


def take(engine, base, steps, *, accumulation=1, first=0, **options):
    """Losses and norms of steps that change rate, u, captions and (every third) the picture's shape."""
    found = []
    for step in range(first, steps):
        engine.set(1 / (step + 1), min(1.0, (step + 1) / 4))
        size = (16, 8) if step % 3 == 2 else (8, 16)
        batches = [make_batch(base, step * accumulation + k, size=size, **options) for k in range(accumulation)]
        found.append([float(value) for value in engine.step(batches)])
    return found


def assert_same(ours, theirs):
    for a, b in zip(ours.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # a hundredth of one step of Adam's


@pytest.mark.parametrize(
    ("method", "steps", "options"),
    [
        pytest.param("singlora", 20, {}, marks=pytest.mark.slow),
        ("symlora", 3, {"accumulation": 3, "min_snr_gamma": 5.0}),
        ("lora", 3, {"components": "unet", "max_grad_norm": 0.0}),
        pytest.param("lora+", 3, {}, marks=pytest.mark.slow),
        pytest.param("dora", 3, {}, marks=pytest.mark.slow),
    ],
)
def test_it_takes_the_steps_of_the_eager_engine(tiny_sd1, method, steps, options):
    accumulation, frozen = options.get("accumulation", 1), options.get("components") == "unet"
    found = []
    for kind in (EagerEngine, lambda p: GraphEngine(p, print)):
        base, one = parts(tiny_sd1, method, **options)
        found.append((one, take(kind(one), base, steps, accumulation=accumulation, frozen_text=frozen)))
    (eager, wanted), (graph, got) = found
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-4, atol=1e-6)
    assert_same(graph, eager)
    assert len({tuple(p.shape) for p in graph.parameters}) > 1 and METHODS[method].name == method


def test_shapes_are_recorded_once_each_and_captions_do_not_count(tiny_sd1):
    base, one = parts(tiny_sd1)
    engine = GraphEngine(one, print)
    take(engine, base, 6)
    assert len(engine.passes) == 2
    with pytest.raises(ValueError, match="3 captions, 2 were said"):
        many = make_batch(base, 0)
        many.token_ids = tokenize(base, CAPTIONS)
        engine.step([many])


def test_warming_up_changes_neither_parameters_nor_optimizer(tiny_sd1):
    """On CUDA every function is called before it is recorded; here we call them."""
    base, one = parts(tiny_sd1)
    engine = GraphEngine(one, print)
    take(engine, base, 2)
    state = copy.deepcopy(one.optimizer.state_dict()["state"])
    before = [p.detach().clone() for p in one.parameters]
    engine.bad.fill_(1)
    for buffers, _ in engine.passes.values():
        engine._forward_backward(buffers)
        engine._update()
    assert all(torch.equal(a, b) for a, b in zip(before, one.parameters, strict=True))
    for index, values in one.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[index][name]) for name, value in values.items())
    assert not any(p.grad.any() for p in one.parameters)


@pytest.mark.parametrize("kind", [EagerEngine, lambda p: GraphEngine(p, print)])
def test_after_a_loss_that_is_not_finite_nothing_changes(tiny_sd1, kind):
    base, one = parts(tiny_sd1)
    engine = kind(one)
    take(engine, base, 2)
    before = [p.detach().clone() for p in one.parameters]
    counts = [float(values["step"]) for values in one.optimizer.state.values()]
    spoiled = make_batch(base, 0)
    spoiled.x0[0, 0, 0, 0] = float("nan")
    loss, _ = engine.step([spoiled])
    assert engine.keeps_last_good and not loss.isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, one.parameters, strict=True))
    assert [float(values["step"]) for values in one.optimizer.state.values()] == counts == [2.0] * len(counts)


def test_loss_scaling_changes_neither_norms_nor_steps_and_its_state_goes_on_after_a_resume(tiny_sd1):
    """The scales are powers of two, so that in fp32 the scaled run is the plain one."""
    found = []
    for dtype in (torch.float32, torch.float16):
        base, one = parts(tiny_sd1, components="unet", dtype=dtype, max_grad_norm=1e-3)
        engine = EagerEngine(one)
        found.append((one, take(engine, base, 2, frozen_text=True)))
    (plain, wanted), (scaled, got) = found
    assert engine.scaler.is_enabled() and min(norm for _, norm in wanted) > 1e-3
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-5, atol=0)
    assert_same(scaled, plain)

    engine.scaler.update(1024.0)  # as after gradients that overflowed
    again = EagerEngine(scaled)
    again.load_state(json.loads(json.dumps(engine.state())))
    assert again.scaler.get_scale() == 1024 and again.state() == engine.state()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"dtype": torch.float16}, "fp16's loss scaling"),
        ({"dropout": 0.1}, "dropout"),
        ({"optimizer": torch.optim.SGD}, "optimizer SGD"),
        ({"accelerator": type("Two", (), {"num_processes": 2})()}, "several processes"),
    ],
)
def test_what_cannot_be_recorded_is_taken_eagerly_and_told_in_one_line(tiny_sd1, changed, why):
    lines = []
    engine = choose_engine("graph", parts(tiny_sd1, components="unet", **changed)[1], lines.append)
    assert isinstance(engine, EagerEngine)
    [line] = lines
    assert why in line


def test_auto_is_eager_on_a_cpu_without_a_word(tiny_sd1):
    one = parts(tiny_sd1, components="unet")[1]
    assert isinstance(choose_engine("auto", one, pytest.fail), EagerEngine)
    assert isinstance(choose_engine("graph", one, pytest.fail), GraphEngine)
    with pytest.raises(ValueError, match="know auto, eager, graph"):
        choose_engine("fast", one, pytest.fail)


def test_a_recording_that_fails_leaves_the_run_to_the_eager_engine(tiny_sd1, monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    lines = []
    base, one = parts(tiny_sd1)
    engine = GraphEngine(one, lines.append)
    with monkeypatch.context() as patched:
        patched.setattr(graph_engine, "Captured", refuse)
        got = take(engine, base, 2, accumulation=2)
    assert lines == [
        "  engine: eager, since the step could not be recorded: operation not permitted when stream is capturing"
    ]
    got += take(engine, base, 3, accumulation=2, first=2)
    base, other = parts(tiny_sd1)
    wanted = take(EagerEngine(other), base, 3, accumulation=2)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-4, atol=1e-6)
    assert_same(one, other)


@pytest.mark.slow
def test_a_graph_run_resumes_exactly_and_equals_the_eager_run(tmp_path, tiny_sd1):
    """Through the trainer: photos of two shapes in buckets, accumulation, class images, min-SNR, checkpointing."""
    images = make_photos(tmp_path / "photos", 2, (96, 48))
    make_photos(tmp_path / "tall", 1, (48, 96))
    (tmp_path / "tall/00.png").rename(images / "tall.png")
    flags = {"method": "symlora", "accumulation": 2, "buckets": True, "batch_size": 1, "min_snr_gamma": 5.0}
    flags |= {"gradient_checkpointing": True, "class_images": make_photos(tmp_path / "class", 2)}
    graph = assert_resumes_exactly(tmp_path / "graph", tiny_sd1, images, engine="graph", **flags)
    eager = train_tiny(tmp_path / "eager", tiny_sd1, images, engine="eager", steps=4, **flags)
    losses = [[json.loads(line)["loss"] for line in run.metrics.read_text().splitlines()] for run in (graph, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    ours, theirs = adapter_tensors(graph), adapter_tensors(eager)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_graph_equals_eager_to_bf16_rounding_over_20_steps(tiny_sd1):
    found = []
    for kind in (EagerEngine, lambda p: GraphEngine(p, pytest.fail)):
        base = load_base(str(tiny_sd1), device="cuda", dtype=torch.bfloat16)
        trainable = attach(base, "singlora", 4, 4.0, "qkvo", ["unet"], 0.0, 0)
        groups = param_groups("singlora", trainable["unet"].items(), 1e-3, name="unet")
        for group in groups:
            group["base_lr"] = group["lr"]
        one = StepParts(
            loss=BatchLoss(base, train_text_encoder=False),
            optimizer=torch.optim.AdamW(groups, fused=True),
            parameters=groups[0]["params"],
            accelerator=OneProcess(),
            ramps=find_ramps(base.unet),
            dtype=torch.bfloat16,
            captions=2,
            unet=base.unet,
        )
        engine, losses = kind(one), []
        for step in range(20):
            engine.set(1.0, min(1.0, (step + 1) / 4))
            batch = make_batch(load_base(str(tiny_sd1)), step, frozen_text=True)
            on_gpu = {name: None if t is None else t.cuda() for name, t in batch.tensors().items()}
            on_gpu["hidden"] = on_gpu["hidden"].bfloat16()
            losses.append(float(engine.step([Batch.of(on_gpu)])[0]))
        found.append(losses)
    assert found[0] == pytest.approx(found[1], rel=2e-2)
