"""Where weights are looked for, in which order, and that nothing waits for a network that is not there."""

import socket
import time

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from durotaxis.core.errors import UserError
from durotaxis.fusion import MissingWeightsError, MultiPTMFeatureExtractor, sources, weights_at_hand

HUB = "timm/resnet18.tv_in1k"


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty hub cache, and a machine on which any look at the network fails the test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def forbidden(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", forbidden)


def cached_weights(tmp_path):
    """A hub cache that holds one file, laid out as the hub's client does."""
    root = tmp_path / "cache" / "models--timm--resnet18.tv_in1k"
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = root / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    save_file({"conv1.weight": torch.zeros(1)}, snapshot / "model.safetensors")
    return snapshot / "model.safetensors", revision


def test_offline_is_said_at_once_with_the_ways_out(no_network, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeightsError) as caught:
        MultiPTMFeatureExtractor()
    message = str(caught.value)
    for part in ("resnet18_imagenet", HUB, "HF_HUB_OFFLINE", "weights: PATH", "resnet18_random", "cache"):
        assert part in message
    assert "\n" not in message


def test_a_local_path_never_asks_the_network(no_network, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "w.pth").write_bytes(b"x")
    assert sources.find_weights("m", HUB, str(tmp_path / "w.pth"), None).path == tmp_path / "w.pth"
    with pytest.raises(MissingWeightsError, match="do not exist"):
        sources.find_weights("m", HUB, str(tmp_path / "gone"), None)
    with pytest.raises(UserError, match="do not exist"):
        MultiPTMFeatureExtractor(
            ptms=[{"model_type": "resnet18_imagenet", "weights": "timm/resnet18.tv_in1k"}]
        )


def test_without_a_network_the_hub_is_not_asked(no_network, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "_reachable", lambda endpoint: False)
    with pytest.raises(MissingWeightsError, match="cannot be reached"):
        sources.find_weights("resnet18_imagenet", HUB, None, None)


def test_the_cache_serves_offline(no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights_at_hand("resnet18_imagenet", HUB) is None
    path, revision = cached_weights(tmp_path)
    assert weights_at_hand("resnet18_imagenet", HUB) == path
    found = sources.find_weights("resnet18_imagenet", HUB, None, None)
    assert (found.path, found.revision) == (path, revision)


def test_package_data_comes_before_the_cache(no_network, monkeypatch, tmp_path):
    cached_weights(tmp_path)
    monkeypatch.setattr(sources, "_DATA", tmp_path)
    (tmp_path / "resnet18_imagenet.safetensors").write_bytes(b"x")
    assert weights_at_hand("resnet18_imagenet", HUB) == tmp_path / "resnet18_imagenet.safetensors"


def test_the_hub_is_asked_last_and_its_refusal_is_passed_on(no_network, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "_reachable", lambda endpoint: True)
    path, _ = cached_weights(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(path))
    assert sources.find_weights("resnet18_imagenet", HUB, None, None).path == path

    def refuse(repo, file):
        raise huggingface_hub.errors.LocalEntryNotFoundError("gated\nlong story")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(MissingWeightsError, match="the hub answered: gated"):
        sources.find_weights("resnet18_imagenet", HUB, None, None)


def test_reachability(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert sources._reachable(endpoint)
        monkeypatch.setattr("urllib.request.proxy_bypass", lambda host: False)
        monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": endpoint})
        assert sources._reachable("https://nowhere.invalid")
    assert not sources._reachable(endpoint)


def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(sources, "_REACH_SECONDS", 0.05)

    def slow(*arguments, **options):
        time.sleep(0.5)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)

    start = time.perf_counter()
    assert not sources._reachable("https://example.org")
    assert time.perf_counter() - start < 0.4


def test_directories(tmp_path):
    def found():
        return sources.find_weights("m", None, str(tmp_path), None).path.name

    with pytest.raises(MissingWeightsError, match="holds no weights file"):
        found()
    (tmp_path / "a.pth").write_bytes(b"x")
    assert found() == "a.pth"
    (tmp_path / "b.safetensors").write_bytes(b"x")
    with pytest.raises(MissingWeightsError, match=r"several weights files \(a.pth, b.safetensors\)"):
        found()
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert found() == "pytorch_model.bin"
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert found() == "model.safetensors"


def test_types_without_a_hub_say_where_their_file_belongs():
    with pytest.raises(MissingWeightsError, match=r"mine\.safetensors"):
        sources.find_weights("mine", None, None, None)
