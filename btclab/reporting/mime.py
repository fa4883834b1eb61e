"""Kinds of notebook output that btclab knows apart."""

PLOTLY = "application/vnd.plotly.v1+json"
RECORD = "application/vnd.btclab.record+json"  # what a notebook hands to the run that executes it
NOISE = (RECORD, "application/vnd.jupyter.widget-view+json")  # helps while a notebook runs, not a reader
