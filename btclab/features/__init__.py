"""What a network reads: indicators, the feature table, the look-ahead audit."""
