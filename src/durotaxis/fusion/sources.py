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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from durotaxis.core.errors import UserError
from durotaxis.fusion.registry import ptm_type

_FILE = "model.safetensors"
_DIRECTORY_FILES = (_FILE, "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.\-]*/[\w.\-]+")
_SNAPSHOT = ("config.json", "preprocessor_config.json", "README.md", _FILE)
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
    return WeightsFile(path, checked_sha256(model_type, path, sha256), _revision(path.parent))


def checked_sha256(model_type: str, path: Path, sha256: str | None) -> str:
    """Digest of a weights file, after comparing it with every digest that is stated somewhere.

    Those are `sha256` (or its beginning), the one in the file's name, and in the hub's cache the name of
    the blob that the file links to. Raises UserError if one differs.
    """
    digest = file_sha256(path)
    named, blob = _NAMED_HASH.search(path.name), path.resolve().name
    stated = (
        (sha256, "the config"),
        (named and named[1], "its name"),
        (blob if _DIGEST.match(blob) else None, "the hub"),
    )
    for expected, where in stated:
        if expected and not digest.startswith(expected):
            raise UserError(
                f"{model_type}: {path} has sha256 {digest[: len(expected)]}, but {where} says {expected}; "
                "the file is damaged or another one: fetch it again"
            )
    return digest


def _revision(directory: Path) -> str | None:
    """The commit that a directory of the hub's cache is a snapshot of."""
    return directory.name if directory.parent.name == "snapshots" else None


@dataclass(frozen=True)
class ModelDirectory:
    """A model in transformers' format: `config.json`, weights, perhaps an image processor and a card."""

    path: Path
    source: str
    revision: str | None

    def weights(self, model_type: str) -> Path:
        """The one weights file. Raises UserError if there is none, or the weights lie in several."""
        for name in _DIRECTORY_FILES:
            if (self.path / name).is_file():
                return self.path / name
        shards = sorted(file.name for file in self.path.glob("*.index.json"))
        why = f"its weights lie in several files ({shards[0]})" if shards else "it holds no weights"
        raise MissingWeightsError(
            f"{model_type}: {self.path} cannot be used, because {why}; save the model as one {_FILE}"
        )


def find_directory(model_type: str, place: str) -> ModelDirectory:
    """Locate a model in transformers' format.

    Args:
        model_type: appears in errors.
        place: a directory; otherwise a repository `owner/name` on the hub, from its cache or downloaded.

    Raises MissingWeightsError if there is neither.
    """
    directory = Path(place).expanduser()
    if directory.is_dir():
        return ModelDirectory(directory, str(directory), _revision(directory))
    if not _REPOSITORY.fullmatch(place):
        raise MissingWeightsError(
            f"{model_type}: directory '{place}' does not exist, and it is no repository 'owner/name'"
        )
    path = directory_at_hand(place)
    if path is None:
        path, reason = _download_snapshot(place)
        if path is None:
            raise MissingWeightsError(
                f"{model_type}: there is no directory '{place}' here, the repository of that name is not in "
                f"the hub's cache ({_cache()}), and {reason}. Ways out: name a directory in transformers' "
                "format, `hf:PATH`; or run once with network access"
            )
    return ModelDirectory(path, f"hub: {place}", _revision(path))


def directory_at_hand(repository: str) -> Path | None:
    """A repository's snapshot in the hub's cache, without asking the network."""
    if not _REPOSITORY.fullmatch(repository):
        return None
    from huggingface_hub import try_to_load_from_cache

    described = try_to_load_from_cache(repository, "config.json")
    weights = try_to_load_from_cache(repository, _FILE)
    return Path(weights).parent if isinstance(described, str) and isinstance(weights, str) else None


def needs_weights(model_type: str) -> bool:
    """Whether a model type cannot be built without pre-trained weights."""
    entry = ptm_type(model_type)
    return entry.hub is not None or entry.is_packaged or not entry.record.taps


def at_hand(model_type: str) -> Path | None:
    """Weights, or the directory of an `hf:` model, already on this machine; the network is not asked."""
    entry, (family, _, place) = ptm_type(model_type), model_type.partition(":")
    if family == "hf":
        return Path(place).expanduser() if Path(place).expanduser().is_dir() else directory_at_hand(place)
    return weights_at_hand(model_type, _hub(model_type, entry.hub))


def fetch(model_type: str) -> Path:
    """Weights or directory of a model type, downloaded if they are not at hand, digests compared.

    Raises MissingWeightsError if they cannot be had, UserError if the model needs none or a digest differs.
    """
    if not needs_weights(model_type):
        raise UserError(f"{model_type}: needs no weights; there is nothing to fetch")
    family, _, place = model_type.partition(":")
    if family == "hf":
        return find_directory(model_type, place).path
    return find_weights(model_type, _hub(model_type, ptm_type(model_type).hub), None, None).path


def _hub(model_type: str, hub: str | None) -> str | None:
    """Repository of a model type; timm is asked for those of `timm:` models."""
    if not model_type.startswith("timm:"):
        return hub
    from durotaxis.fusion.backbones.timm import describe

    return describe(model_type)[1].hf_hub_id


def _download_snapshot(repository: str) -> tuple[Path | None, str]:
    from huggingface_hub import snapshot_download

    reason = _obstacle()
    if reason is not None:
        return None, reason
    return _asked(lambda: snapshot_download(repository, allow_patterns=list(_SNAPSHOT)))


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
    if hub is None:
        raise MissingWeightsError(
            f"{model_type}: there is no {_DATA / model_type}.safetensors in the package; make the weights "
            "with `durotaxis pretrain` (docs/pretraining.md) and name the file in `weights`"
        )
    path, reason = _download(hub)
    if path is not None:
        return path
    raise MissingWeightsError(
        f"{model_type}: pre-trained weights are missing. Looked for {_FILE} of {hub} in the hub's cache "
        f"({_cache()}), and {reason}. Ways out: add `weights: PATH` (torchvision's file, or a directory in "
        f"transformers' format) to this PTM; run once with network access; or use "
        f"{model_type.split('_')[0]}_random, which needs no download"
    )


def _download(hub: str) -> tuple[Path | None, str]:
    """Path of the downloaded file, or None and the reason."""
    from huggingface_hub import hf_hub_download

    reason = _obstacle()
    return (None, reason) if reason is not None else _asked(lambda: hf_hub_download(hub, _FILE))


def _asked(download: Callable[[], str]) -> tuple[Path | None, str]:
    """What a download gave, or None and why it failed."""
    from huggingface_hub.errors import HfHubHTTPError

    # The hub's error derives from its HTTP library's base error, which a broken transfer raises bare.
    failures: tuple[type[BaseException], ...] = (OSError, HfHubHTTPError.__mro__[1])
    try:
        return Path(download()), ""
    except failures as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return None, f"the hub answered: {first_line}"


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _obstacle() -> str | None:
    """Why the hub need not be asked; None if it may answer."""
    from huggingface_hub import constants

    if _offline():
        return "the hub was not asked, because HF_HUB_OFFLINE is set"
    if not _reachable(constants.ENDPOINT):
        return f"{constants.ENDPOINT} cannot be reached from here"
    return None


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
