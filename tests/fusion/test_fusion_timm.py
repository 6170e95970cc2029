"""timm through a small module with its API, and the guard around the real one."""

import builtins
import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import MissingWeightsError, PTMConfig, build_ptm

INFO = [
    {"module": "act1", "num_chs": 4, "reduction": 2},
    {"module": "layer1", "num_chs": 5, "reduction": 4},
    {"module": "layer2", "num_chs": 6, "reduction": 8},
]


class Net(nn.Module):
    """Three convolutions and a classifier, as timm's models are: a list of dicts says what each stage gives."""

    def __init__(self):
        super().__init__()
        widths = [3, *(info["num_chs"] for info in INFO)]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.fc = nn.Linear(6, 10)
        self.feature_info = INFO


class Features(nn.Module):
    """What `features_only` gives: a list of maps for the indices asked for, the stages up to there alone."""

    def __init__(self, net, out_indices):
        super().__init__()
        self.stages, self.out_indices = net.stages[: max(out_indices) + 1], out_indices

    def forward(self, image):
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return [maps[index] for index in self.out_indices]


def create_model(name, pretrained=False, features_only=False, out_indices=None, pretrained_cfg_overlay=None):
    """As timm 1.0: strict for the whole model, but with `features_only` missing keys are ignored."""
    net = Net()
    if pretrained:
        net.load_state_dict(pretrained_cfg_overlay["state_dict"], strict=not features_only)
    return Features(net, out_indices) if features_only else net


def get_pretrained_cfg(name):
    fixed = name == "tiny_vit"
    return SimpleNamespace(
        hf_hub_id=f"timm/{name}",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        input_size=(3, 64, 64),
        fixed_input_size=fixed,
        license="apache-2.0",
    )


@pytest.fixture
def timm(monkeypatch):
    """A module named timm with the functions that are used."""
    module = ModuleType("timm")
    module.create_model, module.get_pretrained_cfg = create_model, get_pretrained_cfg
    module.is_model = lambda name: name in ("tiny", "tiny_vit")
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.fixture
def weights(tmp_path):
    """A whole model, and the file with its weights."""
    torch.manual_seed(0)
    net = Net()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    return net, tmp_path / "model.safetensors"


def load(path=None, name="tiny", **options):
    options |= {} if path is None else {"weights": str(path)}
    return build_ptm(PTMConfig(model_type=f"timm:{name}", **options), 4)


@torch.no_grad()
@pytest.mark.parametrize(("tap", "count"), [("act1", 1), ("layer1", 2), ("layer2", 3), (None, 2)])
def test_map_of_each_tap(timm, weights, tap, count):
    net, path = weights
    ptm = load(path, tap=tap)
    image = torch.rand(2, 3, 24, 24)
    states = ptm.prepare(image)
    assert states.shape[-1] == 96
    for stage in net.stages[:count]:
        states = stage(states)
    torch.testing.assert_close(ptm.maps(image), states)
    assert len(ptm.backbone.model.stages) == count
    record = ptm.record
    assert (record.mean, record.std, record.licence) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "apache-2.0")
    assert (record.source, record.name) == (str(path), "tiny")
    assert record.taps == {"act1": 4, "layer1": 5, "layer2": 6}
    assert record.sha256


def test_models_of_one_size_keep_it(timm, weights):
    assert load(weights[1], "tiny_vit").record.input_size == 64
    with pytest.raises(UserError, match="upsample 96 does not fit: this model takes 64 pixels alone"):
        load(weights[1], "tiny_vit", upsample=96)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upsample": 26}, "multiples of 4 pixels, such as 24 and 28"),
        ({"tap": "layer3"}, "no tap 'layer3'; it has act1, layer1, layer2"),
        ({"name": "nonesuch"}, "timm has no such model"),
        ({"pooling": "token"}, "has no summary of its own"),
        ({"sha256": "0" * 8}, "the config says 00000000"),
    ],
)
def test_wrong_options_are_refused(timm, weights, options, message):
    with pytest.raises(UserError, match=message):
        load(weights[1], **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stages.0.bias"), r"Missing key.*stages\.0\.bias"),
        (lambda s: s.update({"x": torch.zeros(1)}), "Unexpected key"),
        (lambda s: s.update({"fc.bias": torch.full((10,), torch.nan)}), "not finite fc.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(timm, weights, tmp_path, change, message):
    state = weights[0].state_dict()
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


def test_weights_are_looked_for_on_the_hub(timm, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="timm/tiny in the hub's cache"):
        load()


@pytest.mark.parametrize(
    "failure", [ImportError("No module named 'timm'"), RuntimeError("torchvision::nms does not exist")]
)
def test_without_timm_the_way_out_is_told(monkeypatch, failure):
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "timm":
            raise failure
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install durotaxis\[timm\].*torchvision") as caught:
        load()
    assert str(failure) in str(caught.value)
