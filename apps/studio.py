"""The models in memory: one base, the adapters on it, the encoders; all work of the app goes through one worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symdream_apps.bases import checked_base
from symdream_apps.context import Context
from symdream_apps.wording import without_place

if TYPE_CHECKING:
    from symdream.diffusion.base import Base
    from symdream.interop.layers import Adapter

KEPT_ADAPTERS = 8  # read adapters that stay in memory; one for sprite has 2 MB, one for SDXL some hundred

Say = Callable[[str], None]


@dataclass(frozen=True)
class Worn:
    """An adapter to be put on: where it lies, how strong."""

    path: Path
    weight: float


class Studio:
    """Loads lazily, keeps what was used last. Every method but `submit` and `state` runs on the worker's thread."""

    def __init__(self, context: Context):
        self.context = context
        # One thread for good: each new one would start a team of OpenMP threads of its own.
        self._worker = ThreadPoolExecutor(1, "studio")
        self._base: Base | None = None
        self._asked: str | None = None  # the name that the base was loaded by
        self._scheduler: Any = None  # the base's own: an adapter may bring another
        self._on: tuple[tuple, ...] = ()
        self._notes: list[str] = []
        self._adapters: OrderedDict[tuple, Adapter] = OrderedDict()
        self._encoders: dict[bool, tuple] = {}  # by whether they suit the embedded base
        self.state = "No model is loaded yet; the first picture loads it."

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """Run `function(*args)` on the worker, after what was submitted before."""
        return self._worker.submit(function, *args)

    def base(self, name: str, say: Say = lambda text: None) -> Base:
        """The base called `name`, without adapters if it was not loaded already. Raises: RequestError, WorkError."""
        name = checked_base(self.context, name)
        if self._base is not None and self._asked == name:
            return self._base
        shown = without_place(name, self.context.runs)
        say("Loading the libraries …" if self._base is None else f"Loading {shown} …")
        from symdream.diffusion.base import load_base
        from symdream.training.devices import open_accelerator

        accelerator, dtype = open_accelerator("auto", "auto")
        self.state = f"Loading {shown} …"
        say(self.state)
        self.forget()  # two bases at once may not fit
        try:
            base = load_base(name, device=accelerator.device, dtype=dtype)
        except BaseException:
            self.state = "No model is loaded."
            raise
        self._base, self._asked, self._scheduler = base, name, base.scheduler
        number_format = str(dtype).removeprefix("torch.")
        self.state = f"{shown} is loaded ({accelerator.device.type}, {number_format})."
        return base

    def forget(self) -> None:
        """Let the base and its adapters go."""
        self._base, self._asked, self._scheduler, self._on, self._notes = None, None, None, (), []
        import gc

        gc.collect()

    def wear(self, name: str, adapters: Sequence[Worn], say: Say = lambda text: None) -> tuple[Base, list[str]]:
        """The base `name` with exactly these adapters at these weights, and notes on what did not fit.

        Adapters that are on already stay; if the set is another one, all go and the new ones come.
        Raises: RequestError as reading and attaching do; then no adapter is on.
        """
        from symdream.diffusion.adapters import set_weight

        base = self.base(name, say)
        wanted = tuple(self._key(worn.path) for worn in adapters)
        if wanted != self._on:
            self._undress(base)
            if wanted:
                say(f"Putting on {', '.join(worn.path.name for worn in adapters)} …")
                self._notes = self._dress(base, wanted, adapters)
            self._on = wanted
        for place, worn in enumerate(adapters):
            set_weight(base, worn.weight, f"adapter{place}")
        return base, list(self._notes)

    def _dress(self, base: Base, keys: Sequence[tuple], adapters: Sequence[Worn]) -> list[str]:
        from symdream.diffusion.noise_schedule import use_zero_terminal_snr
        from symdream.interop.open import differences
        from symdream.interop.several import attach_several

        read = [self._read(key, worn.path) for key, worn in zip(keys, adapters, strict=True)]
        matches = attach_several(base, {f"adapter{i}": adapter for i, adapter in enumerate(read)})
        notes = []
        for worn, adapter, match in zip(adapters, read, matches.values(), strict=True):
            name = self.context.name_of(worn.path)
            if match.unmatched or match.ignored or match.notes:
                notes.append(f"{name}: {match}")
            notes += [f"{name}: {line.removeprefix('note: ')}" for line in differences(base, adapter.metadata)]
            if adapter.metadata.get("zero_terminal_snr"):
                use_zero_terminal_snr(base)
        return notes

    def _undress(self, base: Base) -> None:
        from symdream.diffusion.detach import detach

        self._on, self._notes = (), []
        detach(base)
        base.scheduler = self._scheduler

    def _key(self, path: Path) -> tuple:
        """Names the adapter's content: another file at the same place is another adapter."""
        from symdream.interop.grouping import adapter_files

        files = [self.context.check_path(file) for file in adapter_files(self.context.check_path(path))]
        return tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)

    def _read(self, key: tuple, path: Path) -> Adapter:
        from symdream.interop.read import read_adapter

        if key not in self._adapters:
            self._adapters[key] = replace(read_adapter(path), name=self.context.name_of(path))
            while len(self._adapters) > KEPT_ADAPTERS:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(key)
        return self._adapters[key]

    def encoders(self, say: Say = lambda text: None) -> tuple:
        """(DINO, CLIP) that suit the base at hand: sprite's own pair, or those for photographs.

        Raises: RequestError, WorkError if they cannot be had.
        """
        from symdream.metrics.encoders import load_encoders

        embedded = self._base is not None and self._base.embedded
        if embedded not in self._encoders:
            say("Loading the encoders for the scores …")
            device = self._base.device if self._base is not None else "cpu"
            self._encoders = {embedded: load_encoders(embedded, device=device)}
        return self._encoders[embedded]

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)
