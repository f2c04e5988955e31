"""Fuses trained runs into one detector and measures what the fusion gains."""
