"""Networks of published detectors that no library has, one file each."""
