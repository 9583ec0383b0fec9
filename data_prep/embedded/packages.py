"""Public packages from which the data are built: found in a folder or downloaded, then verified.

npm archives are pinned by version and sha256 in `packages.lock.json`. Debian removes old revisions,
so a Debian package is only pinned by its name, and the reader of its files verifies their content.
"""

import dataclasses
import functools
import hashlib
import io
import json
import lzma
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError, unknown_name
from core.io.files import sha256_file
from core.io.reading import reading

LOCK_PATH = Path(__file__).with_name("packages.lock.json")
DEFAULT_FOLDER = Path("~/.cache/irudimen/packages")

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NpmLock:
    """The pinned archive of an npm package."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def file_name(self) -> str:
        """File name that `npm pack` gives the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@functools.cache
def read_lock() -> dict[str, NpmLock]:
    """Read the lock file: npm package name -> archive."""
    with reading(LOCK_PATH, fix="restore the file"):
        raw = json.loads(LOCK_PATH.read_text(encoding="utf-8"))
        return {name: NpmLock(name=name, **entry) for name, entry in raw["npm"].items()}


class PackageFolder:
    """Folder of archives (also in `npm/` and `deb/`) into which missing ones are downloaded."""

    def __init__(self, folder: Path, *, report: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder.expanduser()
        self._report = report
        self._checked: set[Path] = set()

    def npm_members(self, name: str, members: tuple[str, ...]) -> list[bytes]:
        """Read files of an npm package, named by their path inside `package/`.

        Raises:
            DataError: If the archive cannot be downloaded, differs from the lock or lacks a file.
        """
        path = self.npm_archive(name)
        wanted = {f"package/{member}": None for member in members}
        found: dict[str, bytes] = {}
        with tarfile.open(path, "r:gz") as tar:
            for info in tar:
                if info.name in wanted and (file := tar.extractfile(info)) is not None:
                    found[info.name] = file.read()
                    if len(found) == len(wanted):
                        break
        for member in wanted:
            if member not in found:
                raise DataError(
                    f"package {path.name} lacks the file '{member}'; delete it and retry"
                )
        return [found[member] for member in wanted]

    def npm_json(self, name: str, member: str) -> Any:
        """Read a JSON file of an npm package."""
        return json.loads(self.npm_members(name, (member,))[0])

    def npm_names(self, name: str) -> list[str]:
        """Return the path inside `package/` of every file."""
        with tarfile.open(self.npm_archive(name), "r:gz") as tar:
            return [info.name.removeprefix("package/") for info in tar if info.isreg()]

    def npm_archive(self, name: str) -> Path:
        """Return the verified archive of a locked npm package; download it if it is missing."""
        locks = read_lock()
        if name not in locks:
            raise DataError(unknown_name("npm package", name, locks, fix=f"See {LOCK_PATH.name}."))
        lock = locks[name]
        path = self._find(lock.file_name) or self._npm_pack(lock)
        if path not in self._checked and (digest := sha256_file(path)) != lock.sha256:
            raise DataError(
                f"package {path} has sha256 {digest}, expected {lock.sha256} ({LOCK_PATH.name}); "
                "delete the file and run again"
            )
        self._checked.add(path)
        return path

    def debian_archive(self, name: str) -> Path:
        """Return the .deb of a Debian package; download the newest one if it is missing."""
        path = self._find(f"{name}_*.deb")
        if path is None:
            self._download(["apt-get", "download", name], self.folder / "deb", name)
            path = self._find(f"{name}_*.deb")
        if path is None:
            raise DataError(
                f"apt-get download {name} wrote no {name}_*.deb to {self.folder / 'deb'}; download "
                "it manually, or use another folder with --packages"
            )
        return path

    def debian_files(
        self, name: str, prefix: str, suffixes: str | tuple[str, ...]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield (path below prefix, content) of the matching files of a Debian package."""
        with tarfile.open(fileobj=io.BytesIO(_read_deb_data(self.debian_archive(name)))) as tar:
            for info in tar:
                inner = info.name.removeprefix("./")
                if info.isreg() and inner.startswith(prefix) and inner.endswith(suffixes):
                    file = tar.extractfile(info)
                    if file is not None:
                        yield inner.removeprefix(prefix), file.read()

    def _find(self, pattern: str) -> Path | None:
        for folder in (self.folder, self.folder / "npm", self.folder / "deb"):
            if matches := sorted(folder.glob(pattern)):
                return matches[-1]
        return None

    def _npm_pack(self, lock: NpmLock) -> Path:
        folder = self.folder / "npm"
        self._download(["npm", "pack", f"{lock.name}@{lock.version}"], folder, lock.name)
        return folder / lock.file_name

    def _download(self, command: list[str], folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._report(f"downloading {name}: {' '.join(command)}")
        fix = f"run it manually in {folder}, or use another folder with --packages"
        try:
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            message = f"cannot download {name}: {command[0]} is not installed; {fix}"
            raise DataError(message) from error
        if run.returncode != 0:
            tail = run.stderr.strip().splitlines()[-1:] or ["no message"]
            raise DataError(f"'{' '.join(command)}' failed: {tail[0]}; {fix}")


def _read_deb_data(path: Path) -> bytes:
    """Return the uncompressed data tar of a .deb, an `ar` archive, without Debian's tools."""
    content = path.read_bytes()
    if not content.startswith(_AR_MAGIC):
        raise DataError(f"{path} is not a Debian package; delete it and run again")
    offset = len(_AR_MAGIC)
    while offset + _AR_HEADER_BYTES <= len(content):
        header = content[offset : offset + _AR_HEADER_BYTES]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        offset += _AR_HEADER_BYTES
        if name == "data.tar.xz":
            return lzma.decompress(content[offset : offset + size])
        if name.startswith("data.tar"):
            raise DataError(f"{path} contains {name}, expected data.tar.xz; use Debian's package")
        offset += size + size % 2
    raise DataError(f"{path} contains no data.tar.xz; delete it and run again")


def text_digest(text: str) -> bytes:
    """Return a stable hash of a text, for ranking texts."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
