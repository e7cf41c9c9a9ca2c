"""``asyncdiff pixelwise`` and ``pixelwise-evaluate``."""
