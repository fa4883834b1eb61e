"""The commands of `btclab`: thin Typer shells, a file a topic; heavy packages are imported inside them."""
