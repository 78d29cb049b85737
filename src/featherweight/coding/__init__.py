"""Symbols to bytes and back, and the file container."""

from featherweight.coding.coder import Decoder, Encoder, cost, entropy
from featherweight.coding.container import Reader, Writer, open_sealed, seal, write_atomic

__all__ = ["Decoder", "Encoder", "Reader", "Writer", "cost", "entropy", "open_sealed", "seal", "write_atomic"]
