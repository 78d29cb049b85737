"""Quantizers of activations: their ranges, where they stand, and what makes activations easy to quantize."""
