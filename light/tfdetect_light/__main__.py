"""`tfdetect-light COMMAND`, the console script, and `python -m tfdetect_light COMMAND`."""

import sys

import tfdetect_light  # noqa: F401  # makes tfdetect importable


def main() -> int:
    """Run a command and return its exit code."""
    from tfdetect.__main__ import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
