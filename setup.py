"""Metadata and settings are in pyproject.toml; this file serves tools that look for it."""

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel


class InPlace(editable_wheel):
    """Puts the checkout on Python's path, as one without `package-dir` would be.

    With it, setuptools installs an import hook, which Python asks last: in the folder above a
    checkout named tfdetect, the checkout itself would be imported as an empty namespace package.
    """

    def finalize_options(self):
        moved = self.distribution.package_dir
        self.distribution.packages = [p for p in self.distribution.packages if p not in moved]
        self.distribution.package_dir = {"": "."}
        super().finalize_options()


setup(cmdclass={"editable_wheel": InPlace})
