"""Adaptation of trained models by transforms of their parameters and apply functions; no network depends on them."""
