"""Makes forgeries with masks out of photographs, and datasets of them."""
