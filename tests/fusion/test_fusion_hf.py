"""Image models of transformers, built small, saved in their real format: equal to transformers, or refused."""

import json
import logging.handlers
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from durotaxis.core.errors import UserError
from durotaxis.core.recompute import recompute
from durotaxis.fusion import MissingWeightsError, MultiPTMFeatureExtractor, PTMConfig, WSAConfig, build_ptm
from durotaxis.fusion.weights import image_statistics

STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
TOKENS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}


def make_models():
    """Kind of model -> a model with random weights, and its image processor."""
    import transformers as hf

    torch.manual_seed(0)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    models = {
        "resnet": hf.ResNetModel(hf.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES)),
        "convnext": hf.ConvNextModel(hf.ConvNextConfig(layer_scale_init_value=1.0, **STAGES)),
        "vit": hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=8, **TOKENS)),
        "dinov2": hf.Dinov2Model(hf.Dinov2Config(image_size=56, patch_size=14, **TOKENS)),
        "dinov2_with_registers": hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(image_size=56, patch_size=14, num_register_tokens=3, **TOKENS)
        ),
        "dinov3_vit": hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(image_size=32, patch_size=16, num_register_tokens=2, **TOKENS)
        ),
    }
    processors = {
        "resnet": hf.ConvNextImageProcessorPil(**imagenet),
        "convnext": hf.ConvNextImageProcessorPil(**imagenet),
        "vit": hf.ViTImageProcessorPil(),
        "dinov2": hf.BitImageProcessorPil(**imagenet),
        "dinov2_with_registers": hf.BitImageProcessorPil(rescale_factor=1 / 128),
        "dinov3_vit": hf.ViTImageProcessorPil(do_normalize=False),
    }
    for module in models["resnet"].modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return {kind: (model.eval(), processors[kind]) for kind, model in models.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every small model, and the directory in which it was saved with its processor."""
    root = tmp_path_factory.mktemp("hf")
    models = make_models()
    for kind, (model, processor) in models.items():
        model.save_pretrained(root / kind)
        processor.save_pretrained(root / kind)
    return {kind: model for kind, (model, _) in models.items()}, root


PARTS = ("resnet", "convnext", "vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
UNIT = {"resnet": 1, "convnext": 32, "vit": 8, "dinov2": 14, "dinov2_with_registers": 14, "dinov3_vit": 16}


def load(place, **options):
    return build_ptm(PTMConfig(model_type=f"hf:{place}", **options), 4)


def own_output(kind, model, image, position):
    """Map after so many parts, from all the hidden states that the whole model gives."""
    options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    output = model(image, output_hidden_states=True, **options)
    states = output.last_hidden_state if position == 4 else output.hidden_states[position]
    if states.dim() == 3:
        patch = model.config.patch_size
        side = image.shape[-1] // patch
        grid = torch.empty(len(image), states.shape[2], side, side)
        first = states.shape[1] - side * side
        for row in range(side):
            for column in range(side):
                grid[:, :, row, column] = states[:, first + row * side + column]
        states = grid
    return states, output.pooler_output.flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("position", [1, 3, 4])
def test_map_and_summary_equal_the_models_own(saved, kind, position):
    models, root = saved
    word = "stage" if kind in ("resnet", "convnext") else "layer"
    side = UNIT[kind] * 2 if UNIT[kind] > 1 else 48
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    pooling = "token" if position == 4 else "mean"
    ptm = load(root / kind, tap=f"{word}{position}", upsample=side, pooling=pooling)
    states, summary = own_output(kind, models[kind], ptm.prepare(image), position)
    torch.testing.assert_close(ptm.maps(image), states, atol=1e-5, rtol=1e-4)
    expected = summary if position == 4 else states.mean((2, 3))
    torch.testing.assert_close(ptm.features(image), expected, atol=1e-5, rtol=1e-4)
    assert ptm.record.width == states.shape[1]


@pytest.mark.parametrize("kind", PARTS)
def test_nothing_is_kept_that_the_tap_does_not_need(saved, kind):
    _, root = saved
    counts = []
    for pooling, tap in (("mean", None), ("token", "stage4" if kind in ("resnet", "convnext") else "layer4")):
        ptm = load(root / kind, pooling=pooling, tap=tap, freeze=False)
        ptm.features(torch.rand(1, 3, 24, 24)).square().sum().backward()
        assert [n for n, p in ptm.backbone.named_parameters() if p.grad is None] == []
        counts.append(sum(p.numel() for p in ptm.backbone.parameters()))
    assert counts[0] < counts[1]


@pytest.mark.parametrize("kind", PARTS)
def test_record_and_default_size(saved, kind):
    import hashlib

    _, root = saved
    record = load(root / kind).record
    content = (root / kind / "model.safetensors").read_bytes()
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert (record.source, record.revision) == (str(root / kind), None)
    assert record.licence == "unknown, see the repository"
    assert record.name == kind
    assert record.input_size == (98 if "dinov2" in kind else 96)
    taps = {"resnet": "stage3", "convnext": "stage3"}
    assert record.tap == taps.get(kind, "layer2")
    assert list(record.taps.values()) == ([8, 16, 24, 32] if kind in taps else [32] * 4)
    json.dumps(record.to_dict())


@pytest.mark.parametrize("kind", PARTS)
def test_preprocessing_equals_the_models_own_processor(saved, kind):
    processor = make_models()[kind][1]
    pixels = torch.randint(
        0, 256, (3, 112, 112), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    plain = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    expected = processor(pixels.numpy(), input_data_format="channels_first", **plain)["pixel_values"]
    ptm = load(saved[1] / kind, upsample=112)
    torch.testing.assert_close(ptm.prepare(pixels[None] / 255), expected, atol=1e-5, rtol=1e-5)


def test_licence_and_revision_come_from_card_and_cache(saved, tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "snapshots" / revision
    shutil.copytree(saved[1] / "vit", place)
    (place / "README.md").write_text("---\ntags: [a]\nlicense: apache-2.0\n---\n# A model\nlicense: none\n")
    record = load(place).record
    assert (record.licence, record.revision) == ("apache-2.0", revision)
    for text in ("no front matter", "---\n: [\n---\n", "---\nlicense: [a, b]\n---\n"):
        (place / "README.md").write_text(text)
        assert load(place).record.licence == "unknown, see the repository"


def test_names_are_derived_and_unique():
    def names(*places):
        return [ptm.name for ptm in WSAConfig(ptms=[{"model_type": f"hf:{p}"} for p in places]).ptms]

    assert names("facebook/dinov2-small", "x/my model (1)/", "./y/dinov2-small") == [
        "dinov2-small",
        "my_model__1_",
        "dinov2-small_2",
    ]
    resolved = WSAConfig(ptms=[{"model_type": "hf:a/b_random"}])
    assert WSAConfig(**json.loads(resolved.model_dump_json())) == resolved


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_two_taps_of_the_same_weights_in_one_extractor(saved, readout):
    place = f"hf:{saved[1] / 'vit'}"
    ptms = [
        {"model_type": place, "tap": "layer1"},
        {"model_type": place, "tap": "layer4", "pooling": "token"},
    ]
    extractor = MultiPTMFeatureExtractor(8, 4, ptms, context_input_dim=5, readout=readout)
    assert extractor.names == ("vit", "vit_2")
    assert extractor.needs_calibration() == []
    image, context = torch.rand(2, 3, 24, 24), torch.randn(2, 5)
    where = {} if readout == "pooled" else {"points": torch.zeros(3, 2), "batch": torch.tensor([0, 0, 1])}
    fused = extractor(image, context, **where)
    cached = extractor.precompute(image)
    torch.testing.assert_close(extractor(image, context, cached=cached, **where), fused)
    before = extractor.frozen_hash()
    extractor.train()
    assert not any(module.training for ptm in extractor.ptms for module in ptm.backbone.modules())
    assert extractor.frozen_hash() == before


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "convnext",
            {"upsample": 24},
            "upsample 24 does not fit: convnext at tap 'stage3' takes multiples of 16",
        ),
        ("convnext", {"upsample": 24, "tap": "stage4"}, "multiples of 32 pixels, such as 32, 64, 96"),
        ("dinov2", {"upsample": 97}, "multiples of 14 pixels, such as 84, 98, 112 .default 98"),
        ("vit", {"upsample": 100}, "multiples of 8"),
        ("vit", {"tap": "layer5"}, "no tap 'layer5'; it has layer1, layer2, layer3, layer4"),
        ("resnet", {"tap": "layer1"}, "no tap 'layer1'; it has stage1"),
        ("vit", {"pooling": "token"}, "summary of its own at tap 'layer4' alone, not at 'layer2'"),
        ("vit", {"sha256": "0" * 8}, "the config says 00000000"),
    ],
)
def test_options_that_a_model_cannot_meet_are_refused(saved, kind, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load(saved[1] / kind, **options)
    assert "\n" not in str(caught.value)


def test_sizes_that_are_possible_work(saved):
    assert load(saved[1] / "convnext", upsample=24, tap="stage2").maps(torch.rand(1, 3, 24, 24)).shape[
        2:
    ] == (3, 3)
    assert load(saved[1] / "resnet", upsample=25).record.input_size == 25


@pytest.mark.parametrize("options", [{"seed": 1}, {"weights": "x.pth"}])
def test_keys_that_are_not_read_are_refused_at_once(options):
    with pytest.raises(ValueError, match=f"does not read '{next(iter(options))}'"):
        PTMConfig(model_type="hf:owner/name", **options)
    with pytest.raises(ValueError, match="names no model; write hf:<repository or directory>"):
        PTMConfig(model_type="hf:")


def copy(saved, kind, tmp_path):
    place = tmp_path / kind
    shutil.copytree(saved[1] / kind, place)
    return place


def refused(place, message):
    with pytest.raises(UserError, match=message) as caught:
        load(place)
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("embeddings.cls_token"), r"do not fit: missing embeddings\.cls_token"),
        (lambda s: s.pop("layernorm.weight"), r"missing layernorm\.weight"),
        (lambda s: s.pop("pooler.dense.weight"), r"missing pooler\.dense\.weight"),
        (lambda s: s.update({"encoder.extra.weight": torch.zeros(2)}), r"unexpected encoder\.extra\.weight"),
        (
            lambda s: s.update({"embeddings.cls_token": torch.zeros(1, 1, 5)}),
            r"wrong shape embeddings\.cls_token \[1, 1, 5\] instead of \[1, 1, 32\]",
        ),
        (lambda s: s.update({"layernorm.bias": torch.full((32,), torch.nan)}), r"not finite layernorm\.bias"),
        (
            lambda s: s.update({"layernorm.bias": torch.ones(32, dtype=torch.int8)}),
            r"wrong type layernorm\.bias int8",
        ),
        (
            lambda s: s.update({"layernorm.bias": torch.ones(32, dtype=torch.int64)}),
            r"wrong type layernorm\.bias int64",
        ),
        (
            lambda s: s.update({"embeddings.cls_token": torch.ones(1, 1, 32, dtype=torch.complex64)}),
            r"wrong type embeddings\.cls_token complex64",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, tmp_path, change, message, capfd):
    reports = logging.handlers.BufferingHandler(100)
    logging.getLogger("transformers").addHandler(reports)
    place = copy(saved, "vit", tmp_path)
    state = load_file(place / "model.safetensors")
    change(state)
    save_file(state, place / "model.safetensors")
    refused(place, message)
    logging.getLogger("transformers").removeHandler(reports)
    assert (capfd.readouterr().err, reports.buffer) == ("", [])


def test_a_head_for_a_task_is_left_out_and_a_missing_pooler_is_no_summary(saved, tmp_path):
    import transformers as hf

    place = copy(saved, "vit", tmp_path)
    torch.manual_seed(1)
    whole = hf.ViTForImageClassification(hf.ViTConfig(image_size=32, patch_size=8, **TOKENS)).eval()
    whole.save_pretrained(place)
    image = torch.rand(2, 3, 32, 32)
    ptm = load(place, tap="layer4", upsample=32)
    expected = whole.vit(ptm.prepare(image)).last_hidden_state[:, 1:].mT.unflatten(2, (4, 4))
    torch.testing.assert_close(ptm.maps(image), expected, atol=1e-5, rtol=1e-4)
    assert ptm.record.token_tap is None
    with pytest.raises(UserError, match="has no summary of its own"):
        load(place, tap="layer4", pooling="token")


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_read_only_without_code(saved, tmp_path):
    place = copy(saved, "convnext", tmp_path)
    state = load_file(place / "model.safetensors")
    expected = load(place).maps(torch.ones(1, 3, 24, 24))
    (place / "model.safetensors").unlink()
    torch.save(state, place / "pytorch_model.bin")
    assert torch.equal(load(place).maps(torch.ones(1, 3, 24, 24)), expected)
    torch.save(state | {"x": Bomb(tmp_path / "boom")}, place / "pytorch_model.bin")
    refused(place, "pickles may run code")
    assert not (tmp_path / "boom").exists()


def test_damaged_weights_are_refused(saved, tmp_path):
    place = copy(saved, "resnet", tmp_path)
    whole = (place / "model.safetensors").read_bytes()
    for content in (b"", whole[:100], whole[:-10], b"\xff" * 200):
        (place / "model.safetensors").write_bytes(content)
        refused(place, "damaged or not a weights file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: (p / "model.safetensors").unlink(), "it holds no weights"),
        (lambda p: (p / "config.json").unlink(), "has no config.json"),
        (lambda p: (p / "config.json").write_text("{"), "no config of a model that transformers knows"),
        (lambda p: (p / "config.json").write_text('{"model_type": "nonesuch"}'), "no config of a model"),
        (lambda p: (p / "config.json").write_text('{"model_type": "bert"}'), "'bert' is no image model"),
        (lambda p: (p / "config.json").write_text('{"model_type": "swin"}'), "fit one image size alone"),
        (
            lambda p: (p / "config.json").write_text('{"model_type": "vit", "num_channels": 1}'),
            "images of 1 channels",
        ),
        (lambda p: (p / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (
            lambda p: (p / "preprocessor_config.json").write_text('{"image_mean": [1]}'),
            "must be three numbers",
        ),
        (
            lambda p: (p / "preprocessor_config.json").write_text(
                '{"do_normalize": false, "rescale_factor": 0}'
            ),
            "rescale_factor",
        ),
        (
            lambda p: (p / "preprocessor_config.json").write_text(
                '{"do_normalize": true, "do_flip_channel_order": true}'
            ),
            "do_flip_channel_order",
        ),
    ],
)
def test_directories_that_lack_something_are_refused(saved, tmp_path, change, message):
    place = copy(saved, "vit", tmp_path)
    change(place)
    refused(place, message)


def test_weights_in_several_files_are_refused(saved, tmp_path):
    place = copy(saved, "vit", tmp_path)
    (place / "model.safetensors").rename(place / "model-00001-of-00002.safetensors")
    (place / "model.safetensors.index.json").write_text("{}")
    refused(place, "its weights lie in several files")


def test_code_of_a_repository_is_not_run(saved, tmp_path):
    place = copy(saved, "vit", tmp_path)
    settings = json.loads((place / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (place / "config.json").write_text(json.dumps(settings))
    (place / "own.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')\n")
    refused(place, "no config of a model that transformers knows")
    assert not (tmp_path / "boom").exists()


def test_statistics_fold_in_the_rescaling(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"do_rescale": false, "image_mean": [51, 51, 51], "image_std": [255, 255, 255]}')
    mean, std = image_statistics(tmp_path / "model.safetensors")
    assert mean == pytest.approx((0.2,) * 3)
    assert std == pytest.approx((1.0,) * 3)


@torch.no_grad()
def test_models_of_unknown_structure_have_one_tap(tmp_path):
    """DeiT: two tokens before the patches, one size alone unless told to interpolate; MobileNetV2: a map."""
    import transformers as hf

    models = {
        "deit": hf.DeiTModel(hf.DeiTConfig(image_size=32, patch_size=8, **TOKENS)).eval(),
        "mobilenet_v2": hf.MobileNetV2Model(hf.MobileNetV2Config(depth_multiplier=0.35)).eval(),
        "vit_msn": hf.ViTMSNModel(hf.ViTMSNConfig(image_size=32, patch_size=8, **TOKENS)).eval(),
    }
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
        hf.ViTImageProcessorPil().save_pretrained(tmp_path / kind)
        ptm = load(tmp_path / kind, upsample=64)
        image = torch.rand(2, 3, 64, 64)
        options = {} if kind == "mobilenet_v2" else {"interpolate_pos_encoding": True}
        states = model(ptm.prepare(image), **options).last_hidden_state
        if kind != "mobilenet_v2":
            states = states[:, 2 if kind == "deit" else 1 :].mT.unflatten(2, (8, 8))
        torch.testing.assert_close(ptm.maps(image), states, atol=1e-5, rtol=1e-4)
        assert ptm.record.taps == {"last": states.shape[1]}


def test_a_model_without_a_map_is_said_to_have_none(tmp_path, monkeypatch):
    """PVT gives the tokens of its last stage, and its config no one size of patches."""
    import transformers as hf

    from durotaxis.fusion.backbones import hf as backbones

    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    hf.PvtModel(hf.PvtConfig(image_size=64, **sizes)).save_pretrained(tmp_path)
    hf.ViTImageProcessorPil().save_pretrained(tmp_path)
    tried = []
    real = backbones.try_image_backbone
    monkeypatch.setattr(backbones, "try_image_backbone", lambda *a: tried.append(a[-1]) or real(*a))
    with pytest.raises(UserError, match=r"its output cannot be laid out as a map \(it is made of tokens"):
        load(tmp_path)
    assert set(tried) <= {96, 64}


def test_repositories_are_looked_for_and_refused_offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        MissingWeightsError, match=r"no directory 'facebook/dinov2-small'.*HF_HUB_OFFLINE"
    ) as caught:
        load("facebook/dinov2-small")
    assert "\n" not in str(caught.value)
    with pytest.raises(
        MissingWeightsError, match=r"directory './dino' does not exist, and it is no repository"
    ):
        load("./dino")


def test_a_repository_is_read_from_the_hubs_cache(saved, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    revision = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "models--owner--tiny-vit"
    shutil.copytree(saved[1] / "vit", root / "snapshots" / revision)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    record = load("owner/tiny-vit").record
    assert (record.source, record.revision, record.name) == ("hub: owner/tiny-vit", revision, "tiny-vit")
    # A blob is named by its digest; a file that differs from it was damaged on the way.
    weights = root / "snapshots" / revision / "model.safetensors"
    blob = root / "blobs" / record.sha256
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(blob)
    assert load("owner/tiny-vit").record == record
    blob.rename(blob.with_name("0" * 64))
    weights.unlink()
    weights.symlink_to(blob.with_name("0" * 64))
    with pytest.raises(UserError, match="the hub says 0000"):
        load("owner/tiny-vit")


def test_a_repository_is_downloaded_as_a_whole(saved, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import constants

    from durotaxis.fusion import sources

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(sources, "_reachable", lambda endpoint: True)
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, sorted(allow_patterns)))
        return str(saved[1] / "vit")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load("owner/tiny-vit").record.source == "hub: owner/tiny-vit"
    assert asked == [
        ("owner/tiny-vit", ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"])
    ]


def test_transformers_that_cannot_import_its_models_is_explained(saved, monkeypatch):
    import transformers

    def fail(*arguments):
        raise ModuleNotFoundError("Could not import module 'ViTModel'")

    monkeypatch.setattr(type(transformers.MODEL_MAPPING), "get", fail)
    with pytest.raises(UserError, match=r"Could not import module 'ViTModel'.*torchvision"):
        load(saved[1] / "vit")


def test_a_summary_of_another_width_is_none(tmp_path):
    import transformers as hf

    hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=8, pooler_output_size=7, **TOKENS)).save_pretrained(
        tmp_path
    )
    hf.ViTImageProcessorPil().save_pretrained(tmp_path)
    assert load(tmp_path).record.token_tap is None


@pytest.mark.parametrize("kind", PARTS)
def test_recomputing_keeps_less_and_changes_nothing(saved, kind):
    """In eval mode, where the checkpointing of transformers itself does nothing."""
    _, root = saved
    side = UNIT[kind] * 4 if UNIT[kind] > 1 else 48
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    word = "stage" if kind in ("resnet", "convnext") else "layer"
    results = []
    for lean in (False, True):
        ptm = load(
            root / kind, tap=f"{word}4" if kind != "convnext" else "stage3", upsample=side, freeze=False
        )
        if lean:
            assert len(ptm.backbone.blocks()) > 1
            recompute(ptm.backbone.blocks())
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            maps = ptm.maps(image)
        maps.square().sum().backward()
        gradients = [p.grad for p in ptm.backbone.parameters() if p.grad is not None]
        results.append((sum(kept.values()), maps.detach(), gradients))
    (much, plain, expected), (little, same, found) = results
    assert torch.equal(plain, same)
    assert little < 0.8 * much
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))
