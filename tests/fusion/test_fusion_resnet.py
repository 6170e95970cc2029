"""The torch-only ResNet against transformers' with the same weights, and every refusal of the loader."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from durotaxis.core.errors import UserError
from durotaxis.fusion import PTMConfig, build_ptm
from durotaxis.fusion.weights import read_state

DEPTHS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


def make_reference(depth):
    """transformers' ResNet with random weights and random BatchNorm statistics."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(depth)
    widths = [64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048]
    kind = "basic" if depth < 50 else "bottleneck"
    config = ResNetConfig(hidden_sizes=widths, depths=DEPTHS[depth], layer_type=kind)
    model = ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def torchvision_state(model, depth):
    """The same tensors under torchvision's names, walked module by module."""
    modules = {"conv1": model.resnet.embedder.embedder.convolution}
    modules["bn1"] = model.resnet.embedder.embedder.normalization
    for s, stage in enumerate(model.resnet.encoder.stages, start=1):
        for b, block in enumerate(stage.layers):
            for j, layer in enumerate(block.layer, start=1):
                modules[f"layer{s}.{b}.conv{j}"] = layer.convolution
                modules[f"layer{s}.{b}.bn{j}"] = layer.normalization
            if hasattr(block.shortcut, "convolution"):
                modules[f"layer{s}.{b}.downsample.0"] = block.shortcut.convolution
                modules[f"layer{s}.{b}.downsample.1"] = block.shortcut.normalization
    modules["fc"] = model.classifier[1]
    return {f"{name}.{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}


@pytest.fixture(scope="module")
def saved18(tmp_path_factory):
    """Directory with the reference ResNet-18: transformers' format, and torchvision's file beside it."""
    root = tmp_path_factory.mktemp("resnet18")
    model = make_reference(18)
    model.save_pretrained(root / "hf")
    state = torchvision_state(model, 18)
    torch.save(state, root / "torchvision.pth")
    save_file(state, root / "timm.safetensors")
    return model, root


def load(path, **options):
    return build_ptm(PTMConfig(model_type="resnet18_imagenet", weights=str(path), **options), 4)


@torch.no_grad()
def assert_same_map(model, path, model_type, stage):
    config = PTMConfig(model_type=model_type, weights=str(path), tap=f"layer{stage}")
    backbone = build_ptm(config, 4).backbone
    for size in (24, 40):
        image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        expected = model.resnet(image, output_hidden_states=True).hidden_states[stage]
        scale = expected.abs().max()
        torch.testing.assert_close(backbone(image) / scale, expected / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "stage"),
    [("hf", 1), ("hf", 2), ("hf", 3), ("hf", 4), ("torchvision.pth", 2), ("timm.safetensors", 4)],
)
def test_resnet18_equals_transformers_in_both_formats(saved18, file, stage):
    model, root = saved18
    assert_same_map(model, root / file, "resnet18_imagenet", stage)


def test_deeper_resnets_equal_transformers(tmp_path):
    model = make_reference(50)
    model.resnet.save_pretrained(tmp_path)  # without the classifier, so without its prefix
    assert_same_map(model, tmp_path, "resnet50_imagenet", 4)
    model = make_reference(34)
    torch.save(torchvision_state(model, 34), tmp_path / "resnet34.pth")
    assert_same_map(model, tmp_path / "resnet34.pth", "resnet34_imagenet", 4)
    with pytest.raises(UserError, match=r"do not fit: unexpected layer1\.2.*more"):
        load(tmp_path / "resnet34.pth")


def test_record_of_loaded_weights(saved18):
    import hashlib

    _, root = saved18
    path = root / "torchvision.pth"
    record = load(path).record
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.source == str(path)
    assert json.loads(json.dumps(record.to_dict()))["width"] == 128


def test_older_files_without_batch_counters_load(saved18, tmp_path):
    model, root = saved18
    state = {k: v for k, v in torchvision_state(model, 18).items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    image = torch.rand(2, 3, 24, 24)
    assert torch.equal(load(tmp_path / "old.pth").maps(image), load(root / "hf").maps(image))


def test_statistics_of_the_saved_processor_are_used(saved18, tmp_path):
    _, root = saved18
    save_file(load_file(root / "timm.safetensors"), tmp_path / "model.safetensors")
    processor = tmp_path / "preprocessor_config.json"
    processor.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    record = load(tmp_path).record
    assert (record.mean, record.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    half = '"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]'
    for text in (
        '{"image_mean": [0.1, 0.2, 0.3]}',
        '{"image_mean": 0.5, "image_std": 0.5}',
        '{"image_mean": [NaN, 0, 0], "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [NaN, 1, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [Infinity, 1, 1]}',
        '{"image_mean": [true, 0, 0], "image_std": [1, 1, 1]}',
        *(f'{{{half}, "rescale_factor": {factor}}}' for factor in ("null", "NaN", "Infinity", "true", '"1"')),
        *(f'{{{half}, "{key}": true}}' for key in ("rescale_offset", "include_top")),
        "[]",
        "{",
    ):
        processor.write_text(text)
        with pytest.raises(UserError, match="preprocessor_config"):
            load(tmp_path)


def refused(path, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        load(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer4.1.conv2.weight"), r"missing layer4\.1\.conv2\.weight"),
        (lambda s: s.pop("bn1.running_mean"), r"missing bn1\.running_mean"),
        (lambda s: s.update({"layer5.weight": torch.zeros(1)}), r"unexpected layer5\.weight"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), r"conv1.*\[64, 1, 7, 7\] instead"),
        (lambda s: s.update({"layer3.0.bn1.weight": torch.full((256,), torch.nan)}), "not finite layer3"),
        (
            lambda s: s.update({"bn1.weight": torch.ones(64, dtype=torch.int8)}),
            r"wrong type bn1\.weight int8 instead of float32",
        ),
        (
            lambda s: s.update({"bn1.bias": torch.ones(64, dtype=torch.complex64)}),
            r"wrong type bn1\.bias complex64",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_do_not_fit_are_refused(saved18, tmp_path, change, message, suffix):
    state = load_file(saved18[1] / "timm.safetensors")
    change(state)
    path = tmp_path / f"weights.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    refused(path, message)


def test_another_stride_layout_is_refused(saved18, tmp_path):
    save_file(load_file(saved18[1] / "timm.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"downsample_in_first_stage": true}')
    with pytest.raises(UserError, match="downsample_in_first_stage"):
        load(tmp_path)


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    for name, save in (
        ("torch.pth", torch.save),
        ("plain.bin", lambda o, p: p.write_bytes(pickle.dumps(o, 2))),
    ):
        save({"conv1.weight": Bomb(tmp_path / "boom")}, tmp_path / name)
        refused(tmp_path / name, "pickles may run code")
    assert not (tmp_path / "boom").exists()


def test_damaged_files_are_refused(saved18, tmp_path):
    for name in ("timm.safetensors", "torchvision.pth"):
        whole = (saved18[1] / name).read_bytes()
        for count in (0, 5, 1000, len(whole) - 10):
            path = tmp_path / name
            path.write_bytes(whole[:count])
            refused(path, "damaged|refused")


def test_a_file_without_a_table_of_tensors_is_refused(tmp_path):
    for content in ([torch.zeros(1)], {"model": {"a": torch.zeros(1)}}, torch.zeros(1)):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(UserError, match="no plain table"):
            read_state(tmp_path / "x.pth")


def test_hashes_in_name_and_config(saved18, tmp_path):
    import hashlib

    content = (saved18[1] / "torchvision.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    good = tmp_path / f"resnet18-{digest[:8]}.pth"
    good.write_bytes(content)
    assert load(good, sha256=digest).record.sha256 == digest
    refused(good, "the config says 00000000", sha256="0" * 8)
    bad = tmp_path / "resnet18-f37072fd.pth"
    bad.write_bytes(content)
    refused(bad, f"sha256 {digest[:8]}, but its name says f37072fd")


@pytest.mark.parametrize("tap", ["layer1", "layer2", "layer3", "layer4"])
def test_nothing_beyond_the_tap_exists(tap):
    ptm = build_ptm(PTMConfig(model_type="resnet18_random", tap=tap, freeze=False), 4)
    ptm.maps(torch.rand(2, 3, 24, 24)).sum().backward()
    assert all(parameter.grad is not None for parameter in ptm.backbone.parameters())
    side = {"layer1": 6, "layer2": 3, "layer3": 2, "layer4": 1}[tap]
    assert ptm.maps(torch.rand(2, 3, 24, 24)).shape == (2, ptm.record.width, side, side)
