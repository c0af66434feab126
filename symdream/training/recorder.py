"""What a run writes down at each step: metrics.jsonl and the boards, and the watch over NaN."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from symdream.config import TrainConfig
from symdream.diffusion.damage import refuse_damaged
from symdream.errors import WorkError, typed
from symdream.training.boards import Board, open_boards
from symdream.training.checkpoint import list_checkpoints
from symdream.training.memory import peak_memory
from symdream.training.run_folder import RunFolder
from symdream.tuners.methods import LAMBDA

if TYPE_CHECKING:
    from symdream.diffusion.base import Base

READ_EVERY = 20  # steps between looks at the device's losses: each look waits for the GPU
FLUSH_SECONDS = 2.0  # between blocks of metrics.jsonl: somebody may be watching
SPECTRUM_EVERY = 20  # steps between looks at SymLoRA's Λ, for the same reason


class Recorder:
    """Gathers each step's numbers on the device and writes them in blocks; stops the run on a loss that is not finite,
    and on a first gradient that is zero.

    On a CPU nothing runs ahead, so every step is looked at; on a GPU the first one and then every READ_EVERY steps.
    What the run does between steps is no step's time: `flush` before it, `show` or `show_picture` after.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        first: int,
        accelerator: Accelerator,
        base: Base | None = None,
    ):
        self.run, self.config, self.steps = run, config, config.training.steps
        self.base = base  # what a loss that is not finite may come from
        self.on_device = accelerator.device.type != "cpu"
        self.writing = accelerator.is_main_process
        self.waiting: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]] = []
        self.on_bad_loss: Callable[[int], None] | None = None
        self.smooth_loss = math.nan
        self.learns = False  # whether a gradient was seen
        self.seconds: list[float] = []
        self.boards: list[Board] = []
        self._first = first + 1
        self._mark = self._flushed = time.monotonic()
        if self.writing:
            run.lines.truncate(first)
            self.boards = open_boards(run, config, first)

    def __enter__(self) -> Recorder:
        self._mark = time.monotonic()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for board in self.boards:
            try:
                board.close()
            except WorkError:
                if kind is None:  # else the error on its way out tells more
                    raise

    def add(
        self,
        step: int,
        loss: torch.Tensor,
        grad_norm: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        u: float,
        *,
        on_bad_loss: Callable[[int], None] | None,
    ) -> None:
        """Note the 1-based `step`, after its update.

        on_bad_loss: saves the state after the given step, if a step whose loss or gradient is not finite changes
        nothing (symdream.diffusion.engine: keeps_last_good); None where it does.
        Raises: WorkError if the loss or the gradient is not finite, or there is no gradient (at the next look at the
        device).
        """
        numbers = {"step": step, "lr": {group["name"]: group["lr"] for group in optimizer.param_groups}, "u": u}
        if self.writing and step % SPECTRUM_EVERY == 0:
            self._show_spectrum(step, optimizer)
        self.waiting.append((numbers, loss, grad_norm))
        self.on_bad_loss = on_bad_loss
        if not self.on_device or step % READ_EVERY == 0 or step == self._first:
            self._read()

    def in_words(self) -> str:
        """What a progress line tells: the smoothed loss as of the last look at the device; "" before the first."""
        return "" if math.isnan(self.smooth_loss) else f"loss {self.smooth_loss:.4f}"

    def _read(self) -> None:
        if not self.waiting:
            return
        memory = peak_memory()
        read = [(numbers, float(loss), float(norm)) for numbers, loss, norm in self.waiting]  # waits for the device
        self.waiting.clear()
        now = time.monotonic()
        # Between two looks the host only launches: what a step took is known as the mean of those in between.
        seconds, self._mark = (now - self._mark) / len(read), now
        for numbers, loss, norm in read:
            step, numbers["seconds"] = numbers["step"], seconds
            self.seconds.append(seconds)
            # With loss scaling an infinite gradient is part of the game; it runs on a GPU and keeps no last good state.
            scaled = self.on_device and self.on_bad_loss is None
            if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
                self._fail(step, loss, norm)
            # A step without a loss (all its weights are 0), or with u = 0, tells nothing.
            if not self.learns and loss != 0 and numbers["u"] > 0:
                self._see_gradient(step, loss, norm)
            self.smooth_loss = loss if math.isnan(self.smooth_loss) else 0.95 * self.smooth_loss + 0.05 * loss
            if self.writing:
                self.run.lines.record(**numbers, loss=loss, grad_norm=norm, memory=memory)
                self._show(numbers, loss, norm, memory)
        if self.writing and time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.run.lines.flush()
            self._flushed = time.monotonic()

    def _fail(self, step: int, loss: float, norm: float) -> None:
        self.run.lines.flush()
        if self.base is not None:
            refuse_damaged(self.base)
        before = list_checkpoints(self.run.checkpoints)
        kept = "the last checkpoint is the last good state" if before else "no checkpoint was saved before it"
        if self.on_bad_loss is not None and step > self._first:  # before the first one nothing has changed
            self.on_bad_loss(step - 1)
            kept = f"the state before it is saved in checkpoints/step-{step - 1}"
        raise WorkError(
            f"Step {step} of {self.steps}: loss {loss}, gradient norm {norm}; {kept}.",
            where=str(self.run.path),
            fix="start again with a lower --lr (a third is a good try); on a GPU also try --dtype bf16 or fp32",
        )

    def _see_gradient(self, step: int, loss: float, norm: float) -> None:
        """Every method has a gradient at its start: LoRA's in B, SymLoRA's in Λ, SingLoRA's in A. Raises: WorkError."""
        if norm == 0:
            self.run.lines.flush()
            base = self.config.model.base
            raise WorkError(
                f"Step {step} of {self.steps}: loss {loss:.4g}, gradient norm 0: the adapter would learn nothing.",
                where=f"{self.run.path}, on base {base}",
                fix="the base answers the same whatever its adapter says, as one does whose weights are zero: get its "
                f"files anew (symdream base check {typed(base)} compares those it has checksums of), or choose another",
            )
        self.learns = True

    def _show(self, numbers: dict[str, Any], loss: float, norm: float, memory: int) -> None:
        values = {
            "loss": loss,
            "gradient norm": norm,
            "u": numbers["u"],
            "seconds per step": numbers["seconds"],
            "peak memory in GiB": memory / 2**30,
            **{f"lr/{name}": lr for name, lr in numbers["lr"].items()},
        }
        for board in self.boards:
            board.numbers(numbers["step"], values)

    def _show_spectrum(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """SymLoRA's Λ after `step`, all layers of a component together (other methods have none)."""
        for group in optimizer.param_groups:
            if not group["name"].endswith(LAMBDA):
                continue
            spectrum = torch.cat([parameter.detach().flatten() for parameter in group["params"]]).float().cpu()
            name = f"lambda/{group['name'].removesuffix('.' + LAMBDA)}"
            low, high, negative = (float(x) for x in (spectrum.min(), spectrum.max(), (spectrum < 0).float().mean()))
            for board in self.boards:
                board.numbers(step, {f"{name} min": low, f"{name} max": high, f"{name} negative share": negative})
                board.spread(step, name, spectrum)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers beside those of the steps; the time they took to find is no step's."""
        for board in self.boards:
            board.numbers(step, values)
        self._mark = time.monotonic()

    def show_picture(self, step: int, path: Path) -> None:
        """Show the samples drawn after `step`; the time they took is no step's."""
        for board in self.boards:
            board.picture(step, "samples", path)
        self._mark = time.monotonic()

    def flush(self) -> None:
        """Read what waits on the device and bring every line to the disk."""
        self._read()
        if self.writing:
            self.run.lines.flush()

    def median_seconds(self) -> float | None:
        """Median seconds of a step, the first left out (it warms up); None if there was only one."""
        return statistics.median(self.seconds[1:]) if len(self.seconds) > 1 else None
