"""The npm packages that a web export contains: pinned, checked, and cut to the files it needs."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfdetect.core.caches import cache_dir
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_bytes


@dataclass(frozen=True)
class Package:
    """A package at one version.

    Attributes:
        name: in the npm registry.
        version: pinned.
        integrity: SHA-512 of its archive in base64, as the registry states it.
        license: SPDX identifier.
        files: the files that a web export contains.
        licenses: files with the texts of its licenses.
        holder: the holder of the copyright, where the package has no file with the text of its
            license.
    """

    name: str
    version: str
    integrity: str
    license: str
    files: tuple[str, ...]
    licenses: tuple[str, ...] = ()
    holder: str = ""

    @property
    def archive(self) -> str:
        """Name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


_SQUOOSH = ("LICENSE", "codec/LICENSE.codec.md")
PACKAGES = (
    Package(
        "onnxruntime-web", "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        "MIT",
        ("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs",
         "dist/ort-wasm-simd-threaded.wasm"),
        holder="Microsoft Corporation",
    ),
    Package(
        "@jsquash/jpeg", "1.6.0",
        "zwN46Awh1VM6gXlIcALwb5WzqK5H2e6+Awcs1QP8AvS8ohsK/sbE4esvmH4jhlhW7+CgiUUww66vg0aTnlSIMA==",
        "Apache-2.0",
        ("decode.js", "utils.js", "meta.js", "codec/dec/mozjpeg_dec.js",
         "codec/dec/mozjpeg_dec.wasm"),
        _SQUOOSH,
    ),
    Package(
        "@jsquash/png", "3.1.1",
        "C10pc+0H6j0h8fENOfnGOvkXCmvpSQTDGlfGd0sHphZhPSGTyLjIrHba0FaZZdsKqA/wlmhYicUHb92vfZphaw==",
        "Apache-2.0",
        ("decode.js", "codec/pkg/squoosh_png.js", "codec/pkg/squoosh_png_bg.wasm"),
        _SQUOOSH,
    ),
    Package(
        "@jsquash/webp", "1.5.0",
        "KggLoj2MnRSfIqTeKe1EmbljTX2vuV7mh79k89PCL1pyqiDULcPM1L47twxXt0hkb68F70bXiL31MxsuoZtKFw==",
        "Apache-2.0",
        ("decode.js", "utils.js", "codec/dec/webp_dec.js", "codec/dec/webp_dec.wasm"),
        _SQUOOSH,
    ),
)  # fmt: skip


def archives(folder: Path | None) -> dict[Package, Path]:
    """Return the archive of each package, checked against its pinned hash.

    Args:
        folder: the folder that contains the archives, as `npm pack` names them; by default they are
            fetched by npm, once, into the cache.

    Raises:
        UserError: one is missing, cannot be fetched, or is not the pinned one.
    """
    return {package: _archive(package, folder) for package in PACKAGES}


def _archive(package: Package, folder: Path | None) -> Path:
    if folder is not None:
        path = folder / package.archive
        if not path.is_file():
            raise UserError(f"{path} does not exist. Get it with: {_commands()}")
        _check(package, path)
        return path
    path = cache_dir() / "npm" / package.archive
    if path.is_file():
        _check(package, path)
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "The packages of a web export are fetched by npm, which is not installed. Get them "
            f"on a machine that has it with: {_commands()} Then name the folder: --npm-packages DIR"
        )
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts"]
        result = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
        fetched = Path(temporary, package.archive)
        if result.returncode or not fetched.is_file():
            reason = (result.stderr.strip().splitlines() or ["it wrote no file"])[0][:200]
            raise UserError(f"npm could not fetch {package.name} {package.version}: {reason}")
        _check(package, fetched)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, fetched.read_bytes())
    return path


def _commands() -> str:
    return f"npm pack {' '.join(f'{p.name}@{p.version}' for p in PACKAGES)}."


def _check(package: Package, path: Path) -> None:
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise UserError(
            f"{path} is not {package.name} {package.version}: its SHA-512 differs. Remove the file."
        )


def contents(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the content of some files of an archive whose hash was checked, by name."""
    with tarfile.open(archive) as tar:
        found = {}
        for name in names:
            file = tar.extractfile(f"package/{name}")
            assert file is not None, name
            found[name] = file.read()
    return found
