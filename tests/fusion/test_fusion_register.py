"""A user's own module: in ten lines, held in eval mode, tried before it is used."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    MultiPTMFeatureExtractor,
    PTMConfig,
    build_ptm,
    calibrate,
    list_ptms,
    register_ptm,
    registry,
)

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


class CNN(nn.Module):
    """Somebody's network: dropout and BatchNorm, in train mode after construction."""

    def __init__(self, vector=False, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6, track_running_stats=norm)
        self.dropout = nn.Dropout(0.5)
        self.vector = vector

    def forward(self, image):
        maps = self.dropout(self.norm(self.conv(image)).relu())
        return maps.mean((2, 3)) if self.vector else maps


def build(**options):
    return build_ptm(PTMConfig(model_type="mine", **options), 4)


IMAGE = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_module_is_used_as_it_is_in_eval_mode():
    module = CNN()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    register_ptm("mine", lambda: module, width=6, mean=mean, std=std, input_size=48, licence="MIT")
    ptm = build()
    ptm.train()
    assert not module.training
    assert not module.dropout.training
    enlarged = nn.functional.interpolate(IMAGE, size=(48, 48), mode="bilinear", align_corners=False)
    prepared = (enlarged - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(ptm.maps(IMAGE), module(prepared))
    assert ptm.maps(IMAGE).shape == (2, 6, 24, 24)
    record = next(record for record in list_ptms() if record.model_type == "mine")
    assert (record.width, record.licence, record.source) == (6, "MIT", "registered by the user")


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_or_learning(freeze):
    register_ptm("mine", CNN, width=6)
    ptm = build(freeze=freeze)
    assert ptm.is_frozen == freeze
    loss = ptm(IMAGE).square().sum()
    loss.backward()
    assert all((parameter.grad is None) == freeze for parameter in ptm.backbone.parameters())


def test_vectors_are_maps_of_one_pixel_and_rows_can_be_points():
    register_ptm("mine", lambda: CNN(vector=True), width=6)
    extractor = MultiPTMFeatureExtractor(
        8, 4, [{"model_type": "mine"}], context_input_dim=5, readout="sampled"
    )
    assert extractor.ptms[0].maps(IMAGE).shape == (2, 6, 1, 1)
    points, batch = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert extractor(IMAGE, torch.randn(2, 5), points=points, batch=batch).shape == (3, 8)


def test_frozen_random_statistics_are_calibrated_and_set_ones_are_kept():
    register_ptm("mine", CNN, width=6)
    trained = CNN()
    trained.norm.running_mean.fill_(0.25)
    register_ptm("trained", lambda: trained, width=6)
    extractor = MultiPTMFeatureExtractor(8, 4, [{"model_type": "mine"}, {"model_type": "trained"}])
    assert extractor.needs_calibration() == ["mine"]
    calibrate(extractor, torch.rand(512, 3, 24, 24))
    assert extractor.needs_calibration() == []
    assert torch.equal(trained.norm.running_mean, torch.full((6,), 0.25))


def test_a_seed_decides_the_weights_and_leaves_global_randomness_alone():
    register_ptm("mine", CNN, width=6)
    ptms = []
    for global_seed, seed in ((3, 1), (4, 1), (3, 2)):
        torch.manual_seed(global_seed)
        ptms.append(build(seed=seed))
    first, same, other = (ptm.backbone.module.conv.weight for ptm in ptms)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(
        ptms[0].projection.weight, ptms[2].projection.weight
    )  # drawn globally, after the module


def test_weights_come_from_registration_or_config(tmp_path):
    states = [CNN().state_dict() for _ in range(2)]
    for index, state in enumerate(states):
        state["norm.running_mean"] += index + 1
        save_file(state, tmp_path / f"{index}.safetensors")
    register_ptm("mine", CNN, width=6, weights=tmp_path / "0.safetensors")
    for ptm, state in (
        (build(), states[0]),
        (build(weights=str(tmp_path / "1.safetensors")), states[1]),
    ):
        for key, value in ptm.backbone.module.state_dict().items():
            assert torch.equal(value, state[key])
        assert bool(ptm.calibrated)
        assert ptm.record.sha256
    with pytest.raises(UserError, match="the config says 00000000"):
        build(sha256="0" * 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv.bias"), r"missing conv\.bias"),
        (lambda s: s.update({"fc.weight": torch.zeros(1)}), r"unexpected fc\.weight"),
        (lambda s: s.update({"conv.bias": torch.zeros(7)}), r"wrong shape conv\.bias \[7\] instead of \[6\]"),
        (lambda s: s.update({"conv.bias": torch.full((6,), torch.inf)}), r"not finite conv\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    state = CNN().state_dict()
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    register_ptm("mine", CNN, width=6, weights=tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        build()
    assert str(tmp_path / "w.safetensors") in str(caught.value)


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_damaged_weights_and_code_are_refused(tmp_path):
    save_file(CNN().state_dict(), tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-9])
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    torch.save({"conv.bias": Bomb(tmp_path / "boom")}, tmp_path / "code.pth")
    register_ptm("mine", CNN, width=6)
    for name, message in (
        ("short.safetensors", "damaged"),
        ("noise.safetensors", "damaged"),
        ("code.pth", "run code"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            build(weights=str(tmp_path / name))
    assert not (tmp_path / "boom").exists()
    with pytest.raises(UserError, match="sha256 is stated, but no weights"):
        build(sha256="0" * 8)


class Fickle(CNN):
    """Dropout that does not care for eval mode."""

    def forward(self, image):
        return nn.functional.dropout(self.conv(image), 0.5, training=True)


class Blind(CNN):
    """Says NaN."""

    def forward(self, image):
        return self.conv(image) * torch.nan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Fickle, "mine: answers differently to the same input"),
        (Blind, "mine: gives NaN or infinite features"),
        (lambda: CNN(norm=False), "mine: what it says of an input depends on the others in the batch"),
        (lambda: nn.Conv2d(3, 5, 3), r"mine: gives \[2, 5, 22, 22\] .*; wanted is \[2, 6, h, w\]"),
        (lambda: nn.Conv2d(3, 6, 30), "mine: cannot take images of 24x24 pixels"),
        (nn.Flatten, r"mine: gives \[2, 1728, 1, 1\]"),
        (lambda: nn.Conv2d(1, 6, 3), "mine: cannot take images of 24x24 pixels"),
        (lambda: "no module", "mine: gives a str instead of a torch.nn.Module"),
    ],
)
def test_modules_that_would_spoil_training_are_refused(make, message):
    register_ptm("mine", make, width=6)
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width and input_size must be at least 1"),
        ({"input_size": 0}, "width and input_size must be at least 1"),
        ({"mean": (0.5,)}, "mean and std must be three numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std positive"),
        ({"std": (float("nan"), 0.5, 0.5)}, "finite"),
        ({"mean": (float("inf"), 0.5, 0.5)}, "finite"),
        ({"reads": "text"}, "must be 'image' or 'graph'"),
        ({"reads": "graph"}, "needs node_dim and edge_dim"),
        ({"make": None}, "needs a class or function"),
        ({"model_type": "a b"}, "must be made of letters"),
        ({"model_type": "hf:x"}, "must be made of letters"),
        ({"model_type": "graph_cnn"}, "already registered"),
    ],
)
def test_wrong_registrations_are_refused(options, message):
    values = {"model_type": "mine", "make": CNN, "width": 6} | options
    with pytest.raises(UserError, match=message):
        register_ptm(values.pop("model_type"), values.pop("make"), **values)


class Degrees(nn.Module):
    """Somebody's graph network: node features, and how many edges arrive."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, graph):
        arriving = torch.zeros(len(graph.nodes)).index_add(
            0, graph.edge_index[1], torch.ones(len(graph.edges))
        )
        return torch.cat([self.linear(graph.nodes), arriving[:, None]], 1)


def test_a_graph_module_is_registered_and_tried():
    register_ptm("mine", Degrees, width=6, reads="graph", node_dim=4, edge_dim=3)
    assert build().record.reads == "graph"
    register_ptm("wide", Degrees, width=7, reads="graph", node_dim=4, edge_dim=3)
    with pytest.raises(UserError, match=r"wide: gives \[24, 6\] for 24 nodes; wanted is \[n, 7\]"):
        build_ptm(PTMConfig(model_type="wide"), 4)
    register_ptm("other", Degrees, width=6, reads="graph", node_dim=5, edge_dim=3)
    with pytest.raises(UserError, match="other: cannot take graphs with 5 node and 3 edge features"):
        build_ptm(PTMConfig(model_type="other"), 4)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "models.md", "exec"), {})
