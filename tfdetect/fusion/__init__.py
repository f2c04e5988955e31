"""Fuse trained runs into one detector, and measure what the fusion gains."""
