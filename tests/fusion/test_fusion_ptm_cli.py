"""`durotaxis ptm`: what list, fetch and check print and refuse."""

import re
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from durotaxis import cli
from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    MultiPTMFeatureExtractor,
    PTMConfig,
    calibrate,
    check_ptm,
    list_ptms,
    parameter_table,
    register_ptm,
    registry,
)
from durotaxis.fusion.readout import spread


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.fixture
def call(capsys):
    """Run a command; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.run(["ptm", *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A directory with a small ViT."""
    import transformers as hf

    place = tmp_path_factory.mktemp("models") / "tiny vit"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(place)
    hf.ViTImageProcessorPil().save_pretrained(place)
    return place


class Sums(nn.Module):
    """A graph network."""

    def forward(self, graph):
        return graph.nodes[:, :2].cumsum(1)


class Constant(nn.Module):
    """Says the same of everything."""

    def forward(self, image):
        return torch.ones(len(image), 2, 1, 1)


def row(out, name):
    (line,) = (line for line in out.splitlines() if line.startswith(name + " "))
    return re.split(r"  +", line.strip())


def test_list_shows_every_record(call, empty_cache):
    register_ptm("sums", Sums, width=2, reads="graph", node_dim=4, edge_dim=3, licence="MIT")
    code, out, _ = call("list")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} >= {record.model_type for record in list_ptms()}
    assert row(out, "sums")[1:] == [
        "graph",
        "registered by the user",
        "MIT",
        "4 + 3",
        "output* 2",
        "needs none",
    ]
    found = row(out, "resnet50_imagenet")
    assert found[3:] == ["BSD-3-Clause", "96 px", "layer1 256 layer2* 512 layer3 1024 layer4", "no"]
    assert any(
        line.split() == ["2048"] or line.endswith(" 2048") for line in map(str.rstrip, out.splitlines())
    )
    assert "hf:<repository or directory> and timm:<name>" in out
    snapshot = empty_cache / "models--timm--resnet50.tv_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(b"")
    assert row(call("list")[1], "resnet50_imagenet")[-1] == "yes"


def test_fetch_says_what_is_already_here(call, vit):
    code, out, _ = call("fetch", f"hf:{vit}")
    assert code == 0
    assert f"already here, {vit}" in out
    assert re.search(r"sha256 [0-9a-f]{64}, licence unknown", out)


def test_fetch_downloads_and_opens(call, empty_cache, monkeypatch, tmp_path):
    import huggingface_hub

    from durotaxis.fusion import sources
    from durotaxis.fusion.backbones.resnet import ResNet

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "_reachable", lambda endpoint: True)
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: str(path))
    save_file(ResNet(18).state_dict(), path)
    code, out, _ = call("fetch", "resnet18_imagenet")
    assert code == 0
    assert f"resnet18_imagenet: fetched, {path}" in out
    path.write_bytes(path.read_bytes()[:-5])
    code, out, err = call("fetch", "resnet18_imagenet")
    assert (code, out) == (2, "")
    assert "damaged" in err


@pytest.mark.parametrize("name", ["resnet18_imagenet", "hf:owner/name"])
def test_fetch_without_a_network_says_so_at_once(call, empty_cache, monkeypatch, name):
    import socket

    from durotaxis.fusion import sources

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(sources, "_REACH_SECONDS", 0.3)

    def slow(*arguments, **options):
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)
    start = time.perf_counter()
    code, _, err = call("fetch", name)
    assert code == 2
    assert "cannot be reached" in err
    assert len(err.splitlines()) == 1
    assert time.perf_counter() - start < 2


def test_fetch_refuses_what_needs_no_weights(call):
    code, _, err = call("fetch", "graph_cnn")
    assert code == 2
    assert "graph_cnn: needs no weights" in err


def test_check_reports_sizes(call, vit):
    code, out, _ = call("check", "graph_cnn", f"hf:{vit}", "--readout", "sampled", "--embedding-dim", "10")
    assert code == 0
    found = row(out, "graph_cnn")
    assert found[1:5] == ["block3", "256", "371,264", f"{512 * 10 + 10:,}"]
    assert found[-1] == "varies"
    line = out.splitlines()[-1]
    embedding = 3 * 256 * 16 + 16 + 16 + 5 * 16
    layer = 4 * (16 * 16 + 16) + 2 * 16 * 24 + 24 + 16 + 2 * 32
    assert "layer1" in line
    assert f"{embedding + layer:,}" in line
    assert "varies" in line


def test_check_takes_tap_size_and_pooling(call, vit):
    code, out, _ = call("check", f"hf:{vit}", "--tap", "layer2", "--pooling", "token", "--upsample", "32")
    assert code == 0
    assert "layer2" in out
    code, _, err = call("check", f"hf:{vit}", "--upsample", "40")
    assert code == 2
    assert "multiples of 16" in err
    assert "readout 'maps'" in call("check", "graph_cnn", "--readout", "maps")[2]


@torch.no_grad()
def test_check_names_models_that_say_nothing(call, tmp_path):
    register_ptm("constant", Constant, width=2)
    broken = nn.Conv2d(3, 4, 3)
    broken.weight.fill_(1e30)  # finite on small numbers, not on these pictures
    register_ptm("broken", lambda: broken, width=4, mean=(-1e10,) * 3)
    code, out, err = call("check", "constant", "graph_cnn")
    assert code == 2
    assert row(out, "constant")[-1] == "CONSTANT OUTPUT"
    assert "constant: CONSTANT OUTPUT" in err
    assert "graph_cnn" not in err
    code, out, err = call("check", "broken")
    assert code == 2
    assert "broken: NOT FINITE" in err


def test_check_asks_for_a_model_where_options_are_given(call, monkeypatch):
    monkeypatch.setattr("durotaxis.fusion.check_ptm", None)
    code, out, err = call("check", "--tap", "layer1")
    assert (code, out) == (2, "")
    assert "--tap of which model? Name it" in err


def test_check_shows_the_others_where_one_is_refused(call):
    code, out, err = call("check", "graph_cnn", "gone_cnn", "graph_gnn", "hf:/no/where")
    assert code == 2
    assert row(out, "graph_cnn")[-1] == row(out, "graph_gnn")[-1] == "varies"
    first, second = err.splitlines()
    assert "unknown model_type 'gone_cnn'" in first
    assert "/no/where" in second


def test_check_runs_graph_models(call):
    register_ptm("sums", Sums, width=2, reads="graph", node_dim=4, edge_dim=3)
    code, out, _ = call("check", "sums")
    assert code == 0
    assert row(out, "sums")[1:5] == ["output", "2", "0", "768"]


def test_spread_is_the_share_that_varies():
    assert spread(torch.ones(5, 3)) == 0
    assert spread(torch.tensor([[1.0], [-1.0]])) == pytest.approx(2**0.5)
    assert spread(torch.tensor([[11.0], [9.0]])) == pytest.approx(2**0.5 / 101**0.5)
    assert spread(torch.tensor([[1.0], [torch.nan]])) != spread(torch.tensor([[1.0], [torch.nan]]))


def test_parameters_are_counted_by_part():
    ptms = [{"model_type": "graph_cnn", "tap": "block1"}, {"model_type": "graph_cnn", "freeze": False}]
    extractor = MultiPTMFeatureExtractor(10, 4, ptms)
    extractor.ptms[1].backbone.block1.requires_grad_(False)
    first, second = parameter_table(extractor)
    one = 3 * 64 * 9 + 128
    assert (first.name, first.backbone, first.trainable, first.projection) == (
        "graph_cnn",
        one,
        0,
        64 * 10 + 10,
    )
    whole = one + 64 * 128 * 9 + 256 + 128 * 256 * 9 + 512
    assert (second.backbone, second.trainable, second.projection) == (whole, whole - one, 256 * 10 + 10)
    found = check_ptm(PTMConfig(model_type="graph_cnn"), 10, "sampled")
    assert found.num_projection == 512 * 10 + 10


@torch.no_grad()
@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "the same for all of them"), (float("nan"), "NaN or infinite")]
)
def test_calibration_refuses_models_that_say_nothing(value, message):
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.norm.weight.fill_(0.0)
            self.norm.bias.fill_(1.0)

        def forward(self, image):
            far = torch.where(image.abs().amax() > 1e3, value, 0.0)
            return self.norm(image) + far

    register_ptm("dead", Dead, width=3, mean=(1e4,) * 3, std=(1.0,) * 3)
    extractor = MultiPTMFeatureExtractor(8, 4, [{"model_type": "dead"}])
    with pytest.raises(UserError, match=f"dead: its features of the calibration images are {message}"):
        calibrate(extractor, torch.rand(512, 3, 24, 24))
    assert extractor.needs_calibration() == ["dead"]
