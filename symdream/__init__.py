"""symdream: teach Stable Diffusion one subject with a symmetric low-rank adapter.

This module stays light (no torch): `import symdream.tuners` registers SingLoRA and SymLoRA with PEFT.
"""

__version__ = "0.1.0"


def load_adapter(pipe, path, name: str = "default", weight: float = 1.0):
    """Load an adapter of any layout into a diffusers pipeline: see symdream.interop.open.load_adapter."""
    from symdream.interop.open import load_adapter as load

    return load(pipe, path, name, weight)
