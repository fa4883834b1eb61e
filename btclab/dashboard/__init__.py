"""The widgets of the Voilà page; no market, model or trading logic."""
