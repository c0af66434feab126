"""Where a run's curves can be watched: TensorBoard, and Weights & Biases where it is installed and asked for."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from symdream.config import TrainConfig
from symdream.errors import RequestError
from symdream.files import disk_error, write_text
from symdream.training.run_folder import RunFolder


class Board(Protocol):
    """Shows what belongs to a 1-based step."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...

    def spread(self, step: int, name: str, values: Tensor) -> None:
        """How `values` (1-d, on the CPU) are distributed."""

    def picture(self, step: int, name: str, path: Path) -> None: ...

    def close(self) -> None: ...


def open_boards(run: RunFolder, config: TrainConfig, first: int) -> list[Board]:
    """The boards of a run that starts, or goes on, after step `first`.

    Raises: RequestError if wandb is asked for and not installed, or cannot log in.
    """
    boards: list[Board] = []
    if config.output.tensorboard:
        boards.append(TensorBoard(run.path / "tensorboard", first))
    if config.output.wandb:
        boards.append(Wandb(run, config))
    return boards


class TensorBoard:
    """Event files in the run folder; what a run wrote after the checkpoint it resumes from is hidden.

    Raises: WorkError when the disk is full.
    """

    def __init__(self, folder: Path, first: int):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        with self._told():
            self.writer = SummaryWriter(str(folder), purge_step=first + 1)  # hides this step and those after it

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        with self._told():
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def spread(self, step: int, name: str, values: Tensor) -> None:
        with self._told():
            self.writer.add_histogram(name, values, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        with self._told(), Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        with self._told():
            self.writer.close()


class Wandb:
    """One wandb run for one run folder, also after a resume; WANDB_MODE=offline keeps it in RUN/wandb.

    Curves are drawn over our own `step`: wandb's counter refuses to go back, which a resume does, and numbers read
    late from a GPU do.
    """

    def __init__(self, run: RunFolder, config: TrainConfig):
        try:
            import wandb
        except ImportError:
            raise RequestError(
                "--wandb needs the package wandb, which is not installed.",
                fix='pip install "symdream[wandb]", or leave --wandb out',
            ) from None
        self.wandb = wandb
        note = run.path / "wandb" / "id"
        if not note.exists():
            write_text(note, secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project="symdream",
                name=run.path.name,
                id=note.read_text(encoding="utf-8"),
                resume="allow",
                dir=run.path,
                config=config.model_dump(mode="json"),
                # wandb would take over this process's output, and standard output is for results.
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.Error as error:
            raise RequestError(
                f"wandb did not start: {error}", fix="wandb login, or set WANDB_MODE=offline, or leave --wandb out"
            ) from error
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def spread(self, step: int, name: str, values: Tensor) -> None:
        self.run.log({name: self.wandb.Histogram(values.tolist()), "step": step})

    def picture(self, step: int, name: str, path: Path) -> None:
        self.run.log({name: self.wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        self.run.finish()
