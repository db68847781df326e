"""Texts: from words to tokens."""
