"""Where pre-trained weights come from: a local path, the package's data, the hub's cache, the hub.

In that order, and a path that the config names is the only place then. What cannot be had is an error
within two seconds that names what was looked for and the ways out.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from durotaxis.core.errors import UserError

_FILE = "model.safetensors"
_DIRECTORY_FILES = (_FILE, "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
_REACH_SECONDS = 1.5
_DATA = Path(__file__).parent / "data"


class MissingWeightsError(UserError):
    """Pre-trained weights are not at hand and cannot be fetched."""


@dataclass(frozen=True)
class WeightsFile:
    """A weights file at hand: its path, digest (sha256, hex), and revision when it came from the hub."""

    path: Path
    sha256: str
    revision: str | None


def find_weights(model_type: str, hub: str | None, weights: str | None, sha256: str | None) -> WeightsFile:
    """Locate the weights of a model and check their hash.

    Args:
        model_type: as in the registry; names the package's data file and appears in errors.
        hub: repository on the hub that holds `model.safetensors`, or None.
        weights: file or directory; if given, nothing else is looked at and no network is touched.
        sha256: the expected digest or its beginning; a name such as `resnet18-f37072fd.pth` states one too.

    Raises MissingWeightsError when there are none, UserError when a hash differs.
    """
    if weights is not None:
        path = _local_file(model_type, Path(weights).expanduser())
    else:
        path = weights_at_hand(model_type, hub) or _fetch(model_type, hub)
    digest = file_sha256(path)
    named = _NAMED_HASH.search(path.name)
    for expected, where in ((sha256, "the config"), (named and named[1], "its name")):
        if expected and not digest.startswith(expected):
            raise UserError(
                f"{model_type}: {path} has sha256 {digest[: len(expected)]}, but {where} says {expected}; "
                "the file is damaged or another one: fetch it again"
            )
    snapshot = path.parent.name if path.parent.parent.name == "snapshots" else None
    return WeightsFile(path, digest, snapshot)


def weights_at_hand(model_type: str, hub: str | None) -> Path | None:
    """Weights already on this machine (package data, then the hub's cache), without asking the network."""
    packaged = _DATA / f"{model_type}.safetensors"
    if packaged.is_file():
        return packaged
    if hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub, _FILE)
    return Path(cached) if isinstance(cached, str) else None


def file_sha256(path: Path) -> str:
    """Digest of a file, 64 hex digits."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _local_file(model_type: str, path: Path) -> Path:
    """The weights file that `weights: path` means: itself, or the one in a directory."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingWeightsError(f"{model_type}: weights '{path}' do not exist; check the path")
    for name in _DIRECTORY_FILES:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    listed = "no weights file" if not found else f"several weights files ({', '.join(f.name for f in found)})"
    raise MissingWeightsError(f"{model_type}: directory '{path}' holds {listed}; name one file in `weights`")


def _fetch(model_type: str, hub: str | None) -> Path:
    """Download from the hub, or say within two seconds why not."""
    from huggingface_hub import constants

    if hub is None:
        raise MissingWeightsError(
            f"{model_type}: no weights at {_DATA / model_type}.safetensors; name a file in `weights`"
        )
    if _offline():
        reason = "the hub was not asked, because HF_HUB_OFFLINE is set"
    elif not _reachable(constants.ENDPOINT):
        reason = f"{constants.ENDPOINT} cannot be reached from here"
    else:
        path, reason = _download(hub)
        if path is not None:
            return path
    raise MissingWeightsError(
        f"{model_type}: pre-trained weights are missing. Looked for {_FILE} of {hub} in the hub's cache "
        f"({constants.HF_HUB_CACHE}), and {reason}. Ways out: add `weights: PATH` (torchvision's file, or a "
        f"directory in transformers' format) to this PTM; run once with network access; or use "
        f"{model_type.split('_')[0]}_random, which needs no download"
    )


def _download(hub: str) -> tuple[Path | None, str]:
    """Path of the downloaded file, or None and the reason."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    # The hub's error derives from its HTTP library's base error, which a broken transfer raises bare.
    failures: tuple[type[BaseException], ...] = (OSError, HfHubHTTPError.__mro__[1])
    try:
        return Path(hf_hub_download(hub, _FILE)), ""
    except failures as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return None, f"the hub answered: {first_line}"


def _offline() -> bool:
    from huggingface_hub import constants

    asked = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return asked or bool(constants.HF_HUB_OFFLINE)


def _reachable(endpoint: str) -> bool:
    """Whether a connection opens at once. A thread, because name resolution knows no timeout."""
    url = urllib.parse.urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urllib.parse.urlsplit(proxy)
    address = (url.hostname or "", url.port or (80 if url.scheme == "http" else 443))
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_REACH_SECONDS).close()
        except OSError:
            return
        opened.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_REACH_SECONDS)
    return opened.is_set()
