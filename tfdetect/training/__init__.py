"""Fitting a detector: devices, optimizer, state that survives, callbacks."""
