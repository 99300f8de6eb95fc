"""Losses over a whole batch of embeddings; one idea per file."""
