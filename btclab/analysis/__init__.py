"""What a strategy was worth."""
