"""Quantizers of activations, and where they stand."""
