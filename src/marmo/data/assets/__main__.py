"""`python -m marmo.data.assets`: fetches drawings and names, and writes the files in `corpus/` and the NOTICE.

The same packages give the same bytes.  Needs npm, the network and the `data` extra, and takes some minutes; whoever
only uses the scenes needs none of it.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from marmo.data.assets.build import build
from marmo.data.assets.notice import notice, notice_path
from marmo.data.assets.sources import fetch
from marmo.data.corpus import corpus_folder
from marmo.files.atomic import atomic_write


@dataclass(frozen=True)
class Assets:
    """Build the scene corpus's asset files from their npm packages."""

    packages: Path | None = None
    """A folder of unpacked packages, from an earlier run with --keep; they are fetched by default"""
    keep: Path | None = None
    """Unpack the fetched packages here and leave them"""

    def run(self) -> None:
        """Fetch, build, write, say what came out."""
        with TemporaryDirectory() as temporary:
            folder = self.packages or self.keep or Path(temporary)
            if self.packages is None:
                folder.mkdir(parents=True, exist_ok=True)
                fetch(folder)
            files, counts = build(folder)
        for name, data in files.items():
            self._write(corpus_folder() / name, data)
        self._write(notice_path(), notice(counts).encode())
        print(f"{counts['concepts']} concepts")

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as stream:
            stream.write(data)
        print(f"{path}  {len(data):,} bytes")


if __name__ == "__main__":
    tyro.cli(Assets, description=Assets.__doc__).run()
