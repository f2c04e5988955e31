"""What detectors give on generators that they were not trained on."""
