"""Figures, tables and sentences that notebooks and dashboard share."""
