"""Fuses trained runs into one detector, and says what that gains."""
