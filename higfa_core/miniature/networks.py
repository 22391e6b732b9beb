"""The miniature's own small networks: word tokenizer, text encoder, autoencoder. Plain torch, no ComfyUI."""

import re

import torch
from torch import nn
from torch.nn import functional as F

from . import birds

MAX_WORDS = 20
TEXT_WIDTH = 64
LATENT_CHANNELS = 8
DOWNSCALE = 8  # 128 x 128 pixels -> 16 x 16 latents
PAD, UNKNOWN = 0, 1


def _vocabulary() -> tuple[str, ...]:
    words = ["a", "photo", "of", "background", "in", "the", "with", "bird", "blurry", "on", "and", ","]
    for species in birds.SPECIES:
        words += species.name.lower().split()
    words += [*birds.COLOURS, *birds.BACKGROUNDS]
    return ("<pad>", "<unknown>", *dict.fromkeys(words))


VOCABULARY = _vocabulary()
_INDEX = {word: i for i, word in enumerate(VOCABULARY)}
_INDEX["an"] = _INDEX["a"]  # its captions have no "an"


def word_ids(text: str) -> list[int]:
    """Lower-case words and commas of `text` as vocabulary indices; words never seen in training map to UNKNOWN."""
    return [_INDEX.get(word, UNKNOWN) for word in re.findall(r"[a-z0-9]+|,", text.lower())]


def pad_ids(ids: list[int]) -> list[int]:
    return (ids + [PAD] * MAX_WORDS)[:MAX_WORDS]


class _TextBlock(nn.Module):
    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, width * 3), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width * 4), nn.GELU(), nn.Linear(width * 4, width))

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """Word ids int64 [B, L] -> states [B, L, 64] and their mean over the words [B, 64]."""

    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(len(VOCABULARY), TEXT_WIDTH)
        self.position = nn.Parameter(torch.randn(MAX_WORDS, TEXT_WIDTH) * 0.02)
        self.blocks = nn.Sequential(_TextBlock(TEXT_WIDTH), _TextBlock(TEXT_WIDTH))
        self.norm = nn.LayerNorm(TEXT_WIDTH)

    def forward(self, ids):
        states = self.norm(self.blocks(self.word(ids) + self.position[: ids.shape[1]]))
        return states, states.mean(1)


class _ConvBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


class Autoencoder(nn.Module):
    """Images [B, 3, H, W] in -1..1 <-> latents [B, 8, H/8, W/8]; H and W divisible by 8."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 3, padding=1),
            _ConvBlock(width),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width, 2 * width, 3, padding=1),
            _ConvBlock(2 * width),
            _ConvBlock(2 * width),
            nn.Conv2d(2 * width, LATENT_CHANNELS, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 2 * width, 3, padding=1),
            *[_ConvBlock(2 * width) for _ in range(3)],
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            *[_ConvBlock(width) for _ in range(3)],
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            _ConvBlock(width // 2),
            nn.Conv2d(width // 2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)


class TinyDecoder(nn.Module):
    """Scaled latents [B, 8, H, W] -> images [B, 3, 8H, 8W] in -1..1, at a fraction of the autoencoder's cost; soft."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1),
            _ConvBlock(width),
            _ConvBlock(width),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width // 2, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, z):
        return self.body(z)
