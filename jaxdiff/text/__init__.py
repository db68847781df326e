"""Text conditions: tokenizers and text encoders."""
