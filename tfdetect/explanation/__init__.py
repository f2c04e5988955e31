"""Why a detector said what it said: maps of one image and of a set, and one image's page."""
