"""From a signal to a fill: rules, costs, the one engine, broker and ledger."""
