"""Training a detector: devices, losses, optimizer, callbacks, a state to resume from."""
