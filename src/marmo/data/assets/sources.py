"""Where the drawings and names come from: packages of the npm registry, pinned, each with its licence."""

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A package, and what its licence asks us to say."""

    package: str
    version: str
    what: str
    author: str
    origin: str
    licence: str
    copyright: str
    style: str | None = None
    """The name that captions and files have for its drawings."""


SOURCES = (
    Source(
        "@iconify-json/noto",
        "1.2.9",
        "Noto Emoji drawings",
        "Google Inc.",
        "https://github.com/googlefonts/noto-emoji",
        "Apache-2.0",
        "Copyright Google Inc.",
        "noto",
    ),
    Source(
        "@iconify-json/twemoji",
        "1.2.5",
        "Twemoji drawings",
        "Twitter, Inc. and other contributors",
        "https://github.com/jdecked/twemoji",
        "CC-BY-4.0",
        "Copyright 2020 Twitter, Inc. and other contributors",
        "twemoji",
    ),
    Source(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "Fluent Emoji Flat drawings",
        "Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
        "MIT",
        "Copyright (c) Microsoft Corporation",
        "fluent",
    ),
    Source(
        "cldr-annotations-full",
        "48.2.0",
        "names and keywords in English and Chinese",
        "The Unicode Consortium",
        "https://cldr.unicode.org",
        "Unicode-3.0",
        "Copyright (c) 2004-2026 Unicode, Inc.",
    ),
    Source(
        "cldr-annotations-derived-full",
        "48.2.0",
        "names of compound emoji in English and Chinese",
        "The Unicode Consortium",
        "https://cldr.unicode.org",
        "Unicode-3.0",
        "Copyright (c) 2004-2026 Unicode, Inc.",
    ),
    Source(
        "emojibase-data",
        "17.0.0",
        "the order and the groups",
        "Miles Johnson",
        "https://emojibase.dev",
        "MIT",
        "Copyright (c) 2017-2019 Miles Johnson",
    ),
)


def fetch(folder: Path) -> None:
    """Downloads and unpacks every package below `folder`, with the machine's own npm settings."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("building the assets needs npm on the path; using them does not")
    for source in SOURCES:
        command = [npm, "pack", "--silent", f"{source.package}@{source.version}"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            archive.extractall(_place(folder, source.package), filter="data")


def read(folder: Path, package: str, member: str) -> object:
    """A JSON file of a fetched package."""
    return json.loads((_place(folder, package) / "package" / member).read_bytes())


def _place(folder: Path, package: str) -> Path:
    return folder / package.removeprefix("@").replace("/", "-")
