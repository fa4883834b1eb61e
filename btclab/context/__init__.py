"""Series that are not candles, each with its publication lag."""
