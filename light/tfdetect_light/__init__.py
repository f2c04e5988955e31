"""The light distribution of tfdetect. Its package is `tfdetect`, as that of the full one.

`tfdetect_light.pth` beside this folder puts the folder on Python's path. Where Python reads no such
files, as in a directory made by `pip install --target`, `import tfdetect_light` does the same.
"""

import importlib.util
import sys

if importlib.util.find_spec("tfdetect") is None:
    sys.path += __path__
