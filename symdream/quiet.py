"""Imported before PEFT, this keeps the screen free of a warning about what nothing here uses.

PEFT imports bitsandbytes where it is installed, which warns of a 4-bit kernel.
"""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
