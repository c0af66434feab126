"""symdream: teach Stable Diffusion one subject with a symmetric low-rank adapter.

This module stays light (no torch): `import symdream.tuners` registers SingLoRA and SymLoRA with PEFT.
"""

__version__ = "0.1.0"
