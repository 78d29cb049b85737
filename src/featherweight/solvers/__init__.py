"""Projections that a scheme alone cannot make: column sweeps in the full metric."""
