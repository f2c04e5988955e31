"""The HTTP server: its API, its page, and the queue in front of the detectors; the web export."""
