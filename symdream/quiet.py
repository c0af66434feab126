"""Imported first, this keeps the screen free of warnings about what nothing here uses.

PEFT imports bitsandbytes where it is installed, which warns of a 4-bit kernel. Pillow warns of large pictures: those
that symdream does not take it refuses in its own words (symdream.data.images).
"""

import logging
import warnings

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
