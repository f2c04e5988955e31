"""The npm packages of a web export: pinned versions, checked by hash, and the files it needs."""

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
    """One version of an npm package.

    Attributes:
        name: the name in the npm registry.
        version: the pinned version.
        integrity: SHA-512 of its archive in base64, as the registry states it.
        license: SPDX identifier of the license.
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
        folder: the folder that contains the archives, as `npm pack` names them; by default npm
            downloads them into the cache, once.

    Raises:
        UserError: an archive is missing, cannot be downloaded, or has another hash.
    """
    return {package: _archive(package, folder) for package in PACKAGES}


def _archive(package: Package, folder: Path | None) -> Path:
    """Return the checked archive of one package; see `archives`."""
    path = (folder or cache_dir() / "npm") / package.archive
    if not path.is_file():
        if folder is not None:
            raise UserError(f"{path} does not exist. Get it with: {_command()}")
        _download(package, path)
    _check(package, path)
    return path


def _download(package: Package, path: Path) -> None:
    """Download the archive of a package with npm, and check it.

    Args:
        package: the package.
        path: the file to write.

    Raises:
        UserError: npm is not installed, the download fails, or the archive has another hash.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "The packages of a web export are downloaded by npm, which is not installed. Get them "
            "on a machine that has npm, and name their folder with --npm-packages DIR. The "
            f"command there: {_command()}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts"]
        result = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
        fetched = Path(temporary, package.archive)
        if result.returncode or not fetched.is_file():
            reason = (result.stderr.strip().splitlines() or ["it wrote no file"])[0][:200]
            raise UserError(f"npm could not download {package.name} {package.version}: {reason}")
        _check(package, fetched)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, fetched.read_bytes())


def _command() -> str:
    """Return the command that downloads all packages."""
    return f"npm pack {' '.join(f'{p.name}@{p.version}' for p in PACKAGES)}"


def _check(package: Package, path: Path) -> None:
    """Check the hash of an archive.

    Raises:
        UserError: it is not that of the package.
    """
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise UserError(
            f"{path} is not {package.name} {package.version}: its SHA-512 differs. Remove the file "
            "and run the command again."
        )


def contents(archive: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the contents of some files of an archive whose hash was checked, by name."""
    with tarfile.open(archive) as tar:
        found = {}
        for name in names:
            file = tar.extractfile(f"package/{name}")
            assert file is not None, name
            found[name] = file.read()
    return found
