"""Candles: where they come from, what they are, where they are kept."""
