"""Everything for diffusers: `asynchronous` for a pipeline of your own, `DiffusersStudio` for whole runs."""

from .retiming import AsyncRun, asynchronous
from .studio import DiffusersStudio, Rendering
from .text_to_image import simple_sigmas

__all__ = ["AsyncRun", "DiffusersStudio", "Rendering", "asynchronous", "simple_sigmas"]
