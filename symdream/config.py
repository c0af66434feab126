"""The settings of a training run: one sentence each, read by TOML, the command line, the app and the help.

Sections are TOML tables; field names are unique over all sections, so that a flag needs no prefix
(`[adapter] rank = 8` is `--rank 8`). `None` means "the default of the chosen method or base".
An unknown key is an error. How a TrainConfig comes from what was asked: `symdream.settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MethodName = Literal["lora", "lora+", "dora", "singlora", "symlora"]
PresetName = Literal["quick", "quality", "paper"]
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


PRODIGY_LR = 1.0  # its authors': the estimated step size as it is


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)


class Subject(Section):
    """Who is learned, and from which photos."""

    images: Path | None = None
    """Folder with 3 to 6 photos of one subject; a .txt beside a photo is its caption."""
    class_noun: Words | None = None
    """What the subject is, as the base would call it: "dog", "backpack"."""
    trigger: Words = "sks"
    """The word that will stand for the subject; best one token that means nothing."""
    template: str | None = None
    """Caption of a photo without a .txt; {subject} becomes trigger and class noun (None: the base's)."""


class OneOfSubjects(Subject):
    """One of several subjects that are learned in one run, each by its own trigger."""

    repeats: PositiveInt = 1
    """How often each of its photos counts beside those of the other subjects."""


class Data(Section):
    """How photos and captions become training samples."""

    buckets: bool = False
    """Keep the shape of photos: each step trains on one of several picture sizes (off: squares)."""
    crop: Literal["center", "random"] = "center"
    """What of a photo is shown that does not fit: its middle, or one of 4 places along the longer side."""
    flip: bool = False
    """Half of the samples show the photo mirrored; not for subjects with writing or an unlike left and right."""
    tag_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a comma-separated tag of a caption is left out of a sample (tags with the trigger stay)."""
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a sample has an empty caption."""
    mask_strength: Fraction = 1.0
    """How little what lies outside of a mask (alpha, or NAME_mask.png) counts in the loss: 1 nothing, 0 as the rest."""
    cache_dir: Path | None = None
    """Where latents, text embeddings and class images are kept (None: $SYMDREAM_CACHE, else ~/.cache/symdream)."""


class Prior(Section):
    """Prior preservation: class images are trained on beside the photos, so that "a dog" stays any dog."""

    class_count: NonNegativeInt = 0
    """How many class images the base draws, once, to train on beside the photos (0: none; 100 is usual)."""
    class_images: Path | None = None
    """Folder with class images, instead of letting the base draw them."""
    class_prompt: Words | None = None
    """Caption of the class images (None: the template with the class noun alone)."""
    prior_loss_weight: PositiveFloat = 1.0
    """How much the class images count in the loss, compared with the photos."""

    @property
    def wanted(self) -> bool:
        return bool(self.class_count or self.class_images)


class Model(Section):
    """Which Stable Diffusion is taught, and where it runs."""

    base: str = Field(default="sprite", min_length=1)
    """sprite (embedded), sd15, sdxl, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base: auto is bf16 where native, else fp16 on a GPU, fp32 on a CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train: auto takes a GPU when there is one."""
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] | None = None
    """Side of the square training images in pixels (None: the base's own)."""


class Adapter(Section):
    """Which adapter is trained, how large, and where it sits."""

    method: MethodName = "singlora"
    """lora, lora+, dora, singlora or symlora."""
    rank: PositiveInt = 8
    """Rank r of the update."""
    alpha: PositiveFloat | None = None
    """The update is scaled by alpha / rank (None: alpha = rank)."""
    targets: Literal["qk", "qkvo"] = "qkvo"
    """Which attention projections: queries and keys, or values and outputs too."""
    init: Literal["kaiming", "small"] | None = None
    """SingLoRA, SymLoRA: size of A at the start, but for what start_from brings; small: a tenth of kaiming (None)."""
    start_from: Path | None = None
    """Go on from the adapter of a run, a folder or a LoRA file instead of a fresh one (None: fresh)."""
    components: Literal["unet", "text_encoder", "both"] = "both"
    """Which part is trained: the UNet, the text encoder, or both."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the adapter."""
    ramp: Fraction | None = None
    """SingLoRA: fraction of the steps over which u(t) grows from 0 to 1 (None: the method's; 0: u = 1 at once)."""


class Training(Section):
    """How long and how fast it learns."""

    steps: PositiveInt = 200
    """Optimizer steps."""
    batch_size: PositiveInt = 4
    """Images in one forward pass (each process)."""
    accumulation: PositiveInt = 1
    """Forward passes whose gradients are averaged into one optimizer step."""
    lr: PositiveFloat | None = None
    """Learning rate of the UNet's adapter (None: the method's)."""
    text_encoder_lr: PositiveFloat | None = None
    """Learning rate of the text encoder's adapter (None: the method's)."""
    lambda_lr: PositiveFloat | None = None
    """SymLoRA: learning rate of Λ (None: the method's)."""
    lora_plus_ratio: PositiveFloat | None = None
    """LoRA+: how many times faster B learns than A (None: the method's)."""
    lr_schedule: Literal["constant", "linear", "cosine"] | None = None
    """How the learning rate falls after the warm-up (None: cosine on sprite, else constant)."""
    warmup: Fraction = 0.0
    """Fraction of the steps over which the learning rate grows from 0."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """adamw, adamw8bit (a quarter of its memory; needs bitsandbytes), or prodigy (finds its rate; prodigyopt)."""
    weight_decay: NonNegativeFloat = 1e-4
    """The optimizer's decoupled weight decay."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm (0: never)."""
    engine: Literal["auto", "eager", "graph"] = "auto"
    """How a step runs: op by op, or replayed from CUDA graphs (auto: graph on CUDA, eager elsewhere)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third slower."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """All that is drawn at random follows from it."""


class Loss(Section):
    """What the error of a prediction counts."""

    min_snr_gamma: PositiveFloat | None = None
    """Min-SNR weighting (arXiv:2303.09556) with this γ, 5 in the paper (None: every timestep counts the same)."""
    noise_offset: NonNegativeFloat = 0.0
    """Strength of noise shared by a whole picture, for very dark and very bright ones (0: none; 0.1 is usual)."""
    zero_terminal_snr: bool = False
    """Let the last timestep be noise alone (arXiv:2305.08891); only for bases that predict v."""


class Selection(Section):
    """How many steps, which checkpoint, what strength: measured while training. Off, unless a preset turns it on."""

    validate_every: NonNegativeInt = 0
    """Steps between looks at the loss on images, timesteps and noises that never change (0: none)."""
    select_every: NonNegativeInt = 0
    """Steps between scores (DINO, CLIP-T) of pictures drawn so far; the best step and weight win (0: the last)."""
    patience: NonNegativeInt = 0
    """End after so many scores in a row that were not the best (0: train all steps)."""
    dino: str | None = Field(default=None, min_length=1)
    """DINO of the scores: sprite, a hub id or a folder (None: sprite for its own base, else facebook/dino-vits16)."""
    clip: str | None = Field(default=None, min_length=1)
    """CLIP of the scores, likewise (None: sprite for its own base, else openai/clip-vit-base-patch32)."""


class Output(Section):
    """What is written, where, and how often."""

    output: Path | None = None
    """Run folder (None: a new one under ./runs)."""
    overwrite: bool = False
    """Replace the run folder if there is one (a run's own config.toml never says so)."""
    checkpoint_every: NonNegativeInt = 100
    """Steps between checkpoints (0: only the last)."""
    keep: PositiveInt = 2
    """How many of the newest checkpoints stay."""
    sample_every: NonNegativeInt = 0
    """Steps between sample pictures (0: none while training)."""
    sample_prompts: list[str] = []
    """Prompts of the samples; {subject} becomes trigger and class noun (none given: the caption template)."""
    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""
    wandb: bool = False
    """Log to Weights & Biases too (needs wandb; WANDB_MODE=offline keeps it in the run folder)."""


class TrainConfig(Section):
    """Everything that decides a run. `config.toml` in the run folder is this, complete."""

    preset: PresetName | None = None
    """Settings to start from; what is given otherwise wins. In a complete config.toml it has nothing left to do."""
    subject: Subject = Subject()
    subjects: list[OneOfSubjects] = []
    """Several subjects in one run, as [[subjects]] tables in place of [subject]."""
    data: Data = Data()
    prior: Prior = Prior()
    model: Model = Model()
    adapter: Adapter = Adapter()
    training: Training = Training()
    loss: Loss = Loss()
    selection: Selection = Selection()
    output: Output = Output()

    @property
    def learned(self) -> Sequence[Subject]:
        """The subjects of the run, one or several: the very objects of the config."""
        return self.subjects or [self.subject]
