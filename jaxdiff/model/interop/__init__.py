"""Models in the layouts in which diffusers and transformers publish them, without either."""
