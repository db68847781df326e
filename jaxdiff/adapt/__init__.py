"""Adapting trained models: transforms of their parameters, which no network knows of."""
