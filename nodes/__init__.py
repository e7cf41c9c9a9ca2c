"""The ComfyUI side: thin V3 nodes over the library. The only folder that imports comfy."""
