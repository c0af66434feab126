"""From an adapter at some path to a file (or folder) that other tools load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from symdream.errors import RequestError
from symdream.interop import arithmetic
from symdream.interop.attach import attach_adapter
from symdream.interop.collect import collect
from symdream.interop.companions import example_prompts, outputs, write_companions
from symdream.interop.keys import Place
from symdream.interop.layers import Adapter, SymmetricLayer
from symdream.interop.lora_file import Report, file_bytes, write_lora
from symdream.interop.metadata import foreign_facts, recommended_weight
from symdream.interop.open import base_of, open_adapter, report_mismatch
from symdream.interop.read import read_adapter
from symdream.interop.size import parse_size
from symdream.interop.spectrum import relative_error
from symdream.replacing import refuse_existing
from symdream.ui import say

if TYPE_CHECKING:
    from symdream.interop.sensitivity import Moments

NUMBER_BYTES = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True)
class Result:
    """What an export wrote, beside its report: the error of compressing (0 if not asked for) and the companions."""

    report: Report | None
    path: Path
    bytes: int
    compression_error: float
    companions: list[Path]


def whole_adapter(path: Path, base: str | None) -> Adapter:
    """The adapter at `path` as LoRA or DoRA. A symmetric one that does not tell its layers' shapes needs its base."""
    adapter = read_adapter(path)
    if not adapter.metadata:  # of another program
        adapter.metadata = foreign_facts(adapter.texts)
    warn(path, adapter)
    if any(isinstance(layer, SymmetricLayer) and layer.shape is None for layer in adapter.layers.values()):
        say(f"{path} does not tell the shapes of its layers; loading its base for them.")
        loaded, metadata = open_adapter(path, base=base)
        return collect(loaded.components(), metadata=metadata)
    return adapter.plain()


def warn(path: Path, adapter: Adapter) -> None:
    """Say what makes an adapter do less than its owner may think."""
    ramps = {layer.u for layer in adapter.layers.values() if isinstance(layer, SymmetricLayer)}
    if ramps and min(ramps) < 1:
        say(f"note: {path} was saved while its ramp was at u = {min(ramps):g}; it is exported at that strength.")
    if adapter.ignored:
        say(f"note: {len(adapter.ignored)} keys of {path} are not used, such as {adapter.ignored[0]}.")
    for note in adapter.notes:
        say(f"note: {note}.")


def export(
    source: Path,
    to: str,
    output: Path,
    *,
    dtype: torch.dtype = torch.float32,
    compress: str | None = None,
    calibrate: bool = False,
    weight: float | None = None,
    added: Sequence[tuple[Path, float]] = (),
    base: str | None = None,
    overwrite: bool = False,
) -> Result:
    """Write the adapter at `source` to `output` as "diffusers", "kohya", "peft" or "merged".

    `weight` scales it (None: 1, and for merged the weight that its training found best) and `added` are other adapters
    (path, weight) to add, both exactly. `compress` is a rank or a size of the file, and `calibrate` judges what to keep
    of it by the answers of the base instead of by the weights, and teaches what is kept the answers of the whole.
    `base` names the base where the adapter does not.
    Raises: RequestError, WorkError; `output` is then as it was.
    """
    source, output = Path(source), Path(output)
    for path, kind in outputs(source, to, output).items():
        refuse_existing(path, overwrite, kind)
    if to == "merged":
        return _merged(source, output, dtype=dtype, weight=weight, base=base, overwrite=overwrite)
    weight = 1.0 if weight is None else weight
    adapter = whole_adapter(source, base)
    if added:
        others = [whole_adapter(path, None) for path, _ in added]
        adapter = arithmetic.add([adapter, *others], [weight, *(w for _, w in added)])
        adapter.metadata["added"] = [f"{path.name}:{w:g}" for path, w in [(source, weight), *added]]
    elif weight != 1:
        adapter = arithmetic.scale(adapter, weight)
    kept, error = adapter, 0.0
    if compress is not None:
        cut = partial(_compressed, adapter, compress, to, output, dtype)
        kept = _calibrated(adapter, source, base, cut) if calibrate else cut(None)
        left = {place: kept.layers.get(place) or _nothing(layer) for place, layer in adapter.layers.items()}
        error = relative_error(adapter.layers, left)
        kept = _with_error(kept, error)
    small = compress is not None and parse_size(compress)[0] == "bytes"
    report = write_lora(kept, output, to, dtype=dtype, peft_metadata=not small)
    if small and to == "diffusers" and any(len({x.rank for x in kept.of(c).values()}) > 1 for c in kept.components):
        say("note: its layers differ in rank, which diffusers reads right since 0.40; --to kohya suits elder ones too")
    companions = write_companions(output, source, kept.metadata) if output.suffix == ".safetensors" else []
    return Result(report, output, report.bytes, error, companions)


def _with_error(adapter: Adapter, error: float) -> Adapter:
    return replace(adapter, metadata={**adapter.metadata, "compression_error": float(f"{error:.4f}")})


def _nothing(layer):
    return replace(layer, A=torch.zeros_like(layer.A[:1]), B=torch.zeros_like(layer.B[:, :1]))


def _calibrated(
    adapter: Adapter, source: Path, base: str | None, cut: Callable[[dict[Place, Moments]], Adapter]
) -> Adapter:
    """Compressed by what the base's answers owe to each layer while it draws the adapter's own prompts, and then taught
    the answers of the whole."""
    from symdream.diffusion.base import load_base
    from symdream.interop.distil import distil
    from symdream.interop.sensitivity import looks_at, measure

    prompts = example_prompts(adapter.metadata)
    if not prompts:
        raise RequestError(
            f"{source} does not say which words stand for its subject, so there is nothing to calibrate on.",
            fix="compress it without --calibrate",
        )
    loaded = load_base(base or base_of(source, adapter.metadata))
    match = attach_adapter(loaded.components(), adapter)
    report_mismatch(match, source)
    say(f"drawing {len(prompts)} prompts with {loaded.name} to see what its answers owe to each layer")
    looks = looks_at(loaded, prompts)
    small = cut(measure(loaded, adapter, looks))
    say("teaching the smaller adapter the answers of the whole one")
    result = distil(loaded, prompts, looks, small)
    say(
        f"its answers are {result.after:.1%} of the adapter's effect away from the whole one's "
        f"({result.before:.1%} before they were taught)"
    )
    return result.adapter


def _compressed(
    adapter: Adapter, wish: str, to: str, output: Path, dtype: torch.dtype, moments: dict[Place, Moments] | None
) -> Adapter:
    kind, amount = parse_size(wish)
    factors = arithmetic.factor(adapter, moments)
    if kind == "rank":
        return arithmetic.compress_to_rank(adapter, amount, factors)

    def with_size(numbers: int) -> tuple[Adapter, int]:
        kept = arithmetic.compress_to_numbers(adapter, numbers, factors)
        told = _with_error(kept, 0.1234)  # as the header will
        return kept, file_bytes(told, to, dtype, output.stem)

    # Looked for by halving, since the header's size depends on which layers stay.
    least = arithmetic.least_numbers(adapter, factors)
    low, high = least, min(amount // NUMBER_BYTES[dtype], _numbers(adapter))
    best = None
    while low <= high:
        middle = (low + high) // 2
        kept, size = with_size(middle)
        if size <= amount:
            best, low = kept, middle + 1
        else:
            high = middle - 1
    if best is None:
        raise arithmetic.nothing_fits(adapter, f"ask for at least {with_size(least)[1] // 1000 + 1}KB")
    return best


def _numbers(adapter: Adapter) -> int:
    return sum(t.numel() for layer in adapter.layers.values() for t in layer.tensors())


def _merged(
    source: Path, output: Path, *, dtype: torch.dtype, weight: float | None, base: str | None, overwrite: bool
) -> Result:
    from symdream.diffusion.adapters import set_weight
    from symdream.diffusion.clip_tokenizer import VOCABULARY
    from symdream.interop.merge import write_merged

    loaded, metadata = open_adapter(source, base=base)
    if weight is None and (weight := recommended_weight(metadata)) != 1:
        say(f"merged at weight {weight:g}, which its training found best; --weight sets another")
    set_weight(loaded, weight)
    size = write_merged(loaded, output, metadata, dtype=dtype, overwrite=overwrite)
    if output.suffix != ".safetensors":
        return Result(None, output, size, 0.0, [])
    if loaded.text_encoders[0].config.vocab_size != VOCABULARY:
        say(
            "note: one file holds no tokenizer, and this base's is not CLIP's, so no tool can read it as a base; "
            "-o FOLDER writes a diffusers folder, which holds it"
        )
    companions = write_companions(output, source, metadata, lora=False)
    return Result(None, output, size, 0.0, companions)
