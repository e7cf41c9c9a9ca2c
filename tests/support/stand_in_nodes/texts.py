"""A text encoder without words: every text has random embeddings of its own, as wide as a family reads them."""

import zlib


class Texts:
    """What text nodes ask of a CLIP."""

    def __init__(self, entry):
        self.entry = entry

    def tokenize(self, text, **settings):
        """The text and what else a node tells the tokenizer (lyrics, tempo, …)."""
        return repr((text, sorted(settings.items())))

    def encode_from_tokens_scheduled(self, tokens):
        """CONDITIONING."""
        from support.zoo.runs import conditioning

        return conditioning(self.entry, zlib.crc32(tokens.encode()))


class Words:
    """The same behind SDXL's own tokenizer, so that phrases of the text are found in it."""

    def __init__(self):
        import comfy.sdxl_clip

        self.tokenizer = comfy.sdxl_clip.SDXLTokenizer()

    def tokenize(self, text, **settings):
        return self.tokenizer.tokenize_with_weights(text, **settings)

    def encode_from_tokens_scheduled(self, tokens):
        """CONDITIONING with one embedding a token."""
        from support.stand_ins import conditioning

        read = [token for block in tokens["l"] for token, *_ in block]
        return conditioning(zlib.crc32(repr(read).encode()), len(read), SDXL)


SDXL = 2048, 1280
"""Widths of its context and of its pooled output."""
