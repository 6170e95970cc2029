"""Several models in one module: frozen means frozen, cached means equal, rows mean what they say."""

import dataclasses
import hashlib

import pytest
import torch
from torch.nn.functional import layer_norm

from durotaxis.core.errors import UserError
from durotaxis.fusion import (
    PTM,
    Backbone,
    MultiPTMFeatureExtractor,
    PTMConfig,
    PTMType,
    WSAConfig,
    build_ptm,
    calibrate,
    check_ptm,
    register_ptm,
    registry,
)

D, CONTEXT = 16, 6
TRIO = (
    {"model_type": "resnet18_random", "freeze": True, "tap": "layer1"},
    {"model_type": "graph_cnn", "freeze": False, "tap": "block2"},
    {"model_type": "resnet18_random", "freeze": False, "tap": "layer1"},
)
FROZEN, CNN, TRAINED = "resnet18_random", "graph_cnn", "resnet18_random_2"


def make(readout="pooled", ptms=TRIO, **options):
    torch.manual_seed(0)
    options = {"embedding_dim": D, "context_dim": 8, "context_input_dim": CONTEXT} | options
    return MultiPTMFeatureExtractor(ptms=ptms, readout=readout, **options)


def inputs(num_images=4, num_points=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(num_images, 3, 24, 24, generator=generator)
    context = torch.randn(num_images, CONTEXT, generator=generator)
    points = torch.rand(num_points, 2, generator=generator) * 2 - 1
    return image, context, points, torch.arange(num_points) % num_images


def call(extractor, image, context, points, batch, **options):
    if extractor.readout == "pooled":
        return extractor(image, context, **options)
    return extractor(image, context, points=points, batch=batch, **options)


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_shapes(readout):
    extractor = make(readout)
    rows = 4 if readout == "pooled" else 11
    representation, attention = call(extractor, *inputs(), return_attention=True)
    assert representation.shape == (rows, D)
    assert attention.shape == (rows, 3)
    torch.testing.assert_close(attention.sum(1), torch.ones(rows))
    assert torch.equal(call(extractor, *inputs()), representation)
    assert extractor.names == (FROZEN, CNN, TRAINED)


@torch.no_grad()
def test_embeddings_are_one_linear_on_what_was_read():
    extractor = make("sampled")
    image, _, points, batch = inputs()
    for ptm in extractor.ptms:
        maps = ptm.backbone((image - 0.5) / 0.5)
        grid = points.view(-1, 1, 1, 2)
        sampled = torch.cat(
            [
                torch.nn.functional.grid_sample(
                    maps[b : b + 1], g[None], "bilinear", "border", align_corners=False
                )
                for b, g in zip(batch.tolist(), grid, strict=True)
            ]
        ).flatten(1)
        row = torch.cat([sampled, maps.mean((2, 3))[batch]], 1)
        torch.testing.assert_close(ptm(image, points, batch), ptm.projection(row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", ["pooled", "sampled"])
def test_an_image_alone_equals_itself_in_a_batch(readout):
    extractor = make(readout)
    image, context, points, batch = inputs()
    together = call(extractor, image, context, points, batch)
    for index in range(4):
        own = batch == index
        alone = call(extractor, image[[index]], context[[index]], points[own], batch[own] * 0)
        expected = together[[index]] if readout == "pooled" else together[own]
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


def test_frozen_models_stay_as_they_are_through_training():
    extractor = make("sampled")
    calibrate(extractor, torch.rand(512, 3, 24, 24))
    before = extractor.frozen_hash()
    buffers = {k: v.clone() for k, v in extractor.ptms[0].backbone.named_buffers()}
    assert buffers
    optimiser = torch.optim.Adam(extractor.parameters(), 0.1)
    for _ in range(2):
        extractor.train()
        extractor.ptms[0].backbone.train()
        loss = call(extractor, *inputs()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert extractor.frozen_hash() == before
    assert all(torch.equal(v, buffers[k]) for k, v in extractor.ptms[0].backbone.named_buffers())
    assert all(p.grad is None for p in extractor.ptms[0].backbone.parameters())
    with torch.no_grad():
        extractor.ptms[0].backbone.bn1.running_mean[0] += 1e-3
    assert extractor.frozen_hash() != before


def test_statistics_of_a_trainable_backbone_are_constants():
    extractor = make(ptms=[TRIO[0]])
    extractor.ptms[0].backbone.requires_grad_(True)
    image, context, *_ = inputs()
    extractor.train()
    first = extractor(image, context)
    first.square().sum().backward()
    assert bool((extractor.ptms[0].backbone.bn1.running_mean == 0).all())
    assert torch.equal(extractor(image, context), first)


def test_every_trainable_parameter_is_used():
    extractor = make("sampled", learn_temperature=True)
    call(extractor, *inputs()).square().sum().backward()
    unused = [n for n, p in extractor.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused


def test_unfreezing_by_hand_takes_effect():
    extractor = make("sampled")
    data = inputs()
    stored = extractor.precompute(data[0])
    assert extractor.cacheable() == [FROZEN]
    assert extractor.ptms[0].is_frozen
    for parameter in extractor.ptms[0].backbone.parameters():
        parameter.requires_grad = True
    assert extractor.cacheable() == []
    assert f"ptm:{FROZEN}" in extractor.parameter_groups()
    stale = {FROZEN: torch.zeros_like(stored[FROZEN])}
    result = call(extractor, *data, cached=stale)
    result.square().sum().backward()
    assert torch.equal(result, call(extractor, *data))
    assert all(p.grad is not None for p in extractor.ptms[0].backbone.parameters())


def test_gradients_reach_an_image_through_a_frozen_model():
    extractor = make(ptms=[TRIO[0]])
    image, context, *_ = inputs()
    image.requires_grad_()
    extractor(image, context).square().sum().backward()
    assert image.grad.abs().max() > 0


def test_a_frozen_model_keeps_no_graph():
    ptm = make("sampled").ptms[0]
    assert not ptm.maps(inputs()[0]).requires_grad


@pytest.mark.parametrize(
    ("readout", "with_points"), [("pooled", False), ("sampled", False), ("sampled", True)]
)
def test_cached_equals_uncached(readout, with_points):
    extractor = make(readout)
    image, _, points, batch = data = inputs()
    stored = extractor.precompute(image, points, batch) if with_points else extractor.precompute(image)
    assert set(stored) == {FROZEN}
    rows, width = stored[FROZEN].shape[0], stored[FROZEN].shape[-1]
    assert (rows, width) == {(0, 0): (4, 64), (1, 0): (4, 64), (1, 1): (11, 128)}[
        (readout == "sampled", with_points)
    ]
    assert not stored[FROZEN].requires_grad
    direct, cached = call(extractor, *data), call(extractor, *data, cached=stored)
    torch.testing.assert_close(cached, direct, atol=1e-6, rtol=1e-6)
    doubled = call(extractor, *data, cached={FROZEN: 2 * stored[FROZEN] + 1})
    assert (doubled - direct).abs().max() > 1e-3  # it is read
    cached.square().sum().backward()
    assert extractor.ptms[0].projection.weight.grad.abs().max() > 0


def test_rows_of_a_cache_may_be_chosen():
    extractor = make("sampled")
    image, context, points, batch = inputs()
    stored = extractor.precompute(image)
    keep = torch.tensor([2, 0])
    own = (batch == 2) | (batch == 0)
    index = (batch[own] == 0).long()
    part = call(
        extractor, image[keep], context[keep], points[own], index, cached={FROZEN: stored[FROZEN][keep]}
    )
    torch.testing.assert_close(part, call(extractor, *inputs())[own], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_context_is_gathered_to_rows():
    image, context, points, batch = inputs(num_images=3, num_points=3)
    batch = torch.tensor([2, 2, 0])  # as many points as images, in another order
    by_image, by_point = make("sampled"), make("sampled", context="node")
    by_point.load_state_dict(by_image.state_dict())
    for extractor in (by_image, by_point):
        torch.nn.init.normal_(
            extractor.fusion.output_layer.weight, generator=torch.Generator().manual_seed(0)
        )
    a = by_image(image, context, points=points, batch=batch, return_attention=True)
    b = by_point(image, context[batch], points=points, batch=batch, return_attention=True)
    torch.testing.assert_close(a, b)
    other = by_image(image, context[[1, 1, 1]], points=points, batch=batch, return_attention=True)
    assert (other[1] - a[1]).abs().max() > 1e-3


def test_wrong_inputs_are_refused():
    extractor, pooled = make("sampled"), make()
    image, context, points, batch = inputs()
    cases = [
        (lambda: extractor(image, context), "needs points"),
        (lambda: extractor(image, context, points=points), "batch .* is needed"),
        (lambda: extractor(image, context, points=points, batch=batch[1:]), "batch has shape"),
        (lambda: extractor(image, context[1:], points=points, batch=batch), "context_input has 3 rows"),
        (lambda: extractor(image, context[:, 1:], points=points, batch=batch), "context_input has shape"),
        (lambda: extractor(image[:, :2], context, points=points, batch=batch), "image has shape"),
        (lambda: pooled(image, context, cached={"who": image}), "cached holds 'who'"),
    ]
    for function, message in cases:
        with pytest.raises(UserError, match=message):
            function()


def test_one_image_needs_no_batch():
    extractor = make("sampled")
    image, context, points, batch = inputs(num_images=1)
    assert torch.equal(
        extractor(image, context, points=points), extractor(image, context, points=points, batch=batch)
    )


@torch.no_grad()
def test_interventions():
    extractor = make("sampled")
    torch.nn.init.normal_(extractor.fusion.output_layer.weight)
    data = inputs()
    image, _, points, batch = data
    before, attention = call(extractor, *data, return_attention=True)
    embeddings = [layer_norm(ptm(image, points, batch), (D,)) for ptm in extractor.ptms]
    with extractor.intervene("uniform"):
        uniform, weights = call(extractor, *data, return_attention=True)
    torch.testing.assert_close(uniform, sum(embeddings) / 3, atol=1e-6, rtol=1e-5)
    assert torch.equal(weights, torch.full_like(weights, 1 / 3))
    assert (attention - 1 / 3).abs().max() > 0.05

    def interrupted():
        with extractor.intervene("zero"):
            assert bool((call(extractor, *data) == 0).all())
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert torch.equal(call(extractor, *data), before)
    with extractor.intervene(None):
        assert torch.equal(call(extractor, *data), before)
    with pytest.raises(UserError, match="intervention 'one'"), extractor.intervene("one"):
        pass


def test_parameter_groups_are_disjoint_and_complete():
    extractor = make("sampled", learn_temperature=True)
    groups = extractor.parameter_groups()
    assert list(groups) == [f"ptm:{CNN}", f"ptm:{TRAINED}", "fusion"]
    grouped = [id(p) for group in groups.values() for p in group]
    trainable = {id(p) for p in extractor.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable


def test_mean_fusion_has_no_context_parameters():
    extractor = make(fusion="mean")
    image, context, *_ = inputs()
    assert not list(extractor.state_encoder.parameters())
    assert torch.equal(extractor(image, context), extractor(image, context * 2))
    extractor(image, context).square().sum().backward()
    assert all(p.grad is not None for p in extractor.parameters() if p.requires_grad)


def test_from_config_equals_the_constructor():
    config = WSAConfig(
        embedding_dim=D,
        context_dim=8,
        ptms=TRIO,
        num_heads=2,
        attention_temperature=0.5,
        hidden_dims=(32, 16),
    )
    torch.manual_seed(0)
    extractor = MultiPTMFeatureExtractor.from_config(config, context_input_dim=CONTEXT, readout="sampled")
    direct = make("sampled", num_heads=2, temperature=0.5, hidden_dims=(32, 16))
    assert torch.equal(call(extractor, *inputs()), call(direct, *inputs()))


def test_random_models_depend_on_their_seed_alone():
    def digest(**options):
        ptm = build_ptm(PTMConfig(model_type="resnet18_random", tap="layer1", **options), D)
        weights = [p.detach().flatten() for n, p in ptm.backbone.named_parameters() if "conv" in n]
        return hashlib.sha256(torch.cat(weights).numpy().tobytes()).hexdigest(), ptm.record.source

    torch.manual_seed(1)
    first = digest(seed=5)
    torch.manual_seed(2)
    assert digest(seed=5) == first
    assert digest(seed=6)[0] != first[0]
    assert digest(seed=5, freeze=False)[0] == first[0]
    assert "seed 5, BatchNorm" in first[1]
    assert "GroupNorm" in digest(seed=5, freeze=False)[1]
    twins = make(ptms=[TRIO[0], TRIO[0]])
    assert not torch.equal(twins.ptms[0].backbone.conv1.weight, twins.ptms[1].backbone.conv1.weight)


def test_graph_cnn_follows_the_runs_random_numbers_unless_seeded():
    def weight(run, **options):
        torch.manual_seed(run)
        return build_ptm(PTMConfig(model_type="graph_cnn", **options), D).backbone.block1[0].weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    assert torch.equal(weight(1, seed=3), weight(2, seed=3))


def test_norms_of_random_models():
    kinds = {"freeze": torch.nn.BatchNorm2d, "train": torch.nn.GroupNorm}
    extractor = make()
    assert isinstance(extractor.ptms[0].backbone.bn1, kinds["freeze"])
    assert isinstance(extractor.ptms[2].backbone.bn1, kinds["train"])


@pytest.mark.parametrize(("tap", "shape"), [("block1", (64, 12)), ("block2", (128, 6)), ("block3", (256, 3))])
def test_graph_cnn_taps(tap, shape):
    ptm = build_ptm(PTMConfig(model_type="graph_cnn", tap=tap), D)
    assert ptm.maps(inputs()[0]).shape == (4, shape[0], shape[1], shape[1])
    assert ptm.record.width == shape[0]
    assert len(list(ptm.backbone.children())) == int(tap[-1])


def test_input_is_normalised_as_the_models_own_image_processor_does():
    from transformers.image_transforms import normalize
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    record = dataclasses.replace(registry.ptm_type("resnet18_imagenet").record, input_size=None)
    ptm = PTM(Blank(), record, D)
    image = inputs(1)[0]
    expected = normalize(image[0].numpy(), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    torch.testing.assert_close(ptm.prepare(image)[0], torch.as_tensor(expected), atol=1e-6, rtol=1e-5)


def test_upsampling():
    ptm = build_ptm(PTMConfig(model_type="resnet18_random", upsample=48), D)
    assert ptm.prepare(inputs()[0]).shape == (4, 3, 48, 48)
    assert ptm.record.input_size == 48
    assert registry.ptm_type("resnet18_imagenet").record.input_size == 96


@torch.no_grad()
def test_calibration_standardises_every_layer():
    extractor = make(ptms=[{"model_type": "resnet18_random"}, TRIO[1], TRIO[2]])
    images = torch.rand(512, 3, 24, 24) * torch.linspace(0, 1, 512).view(-1, 1, 1, 1)
    assert extractor.needs_calibration() == [FROZEN]
    before = extractor.frozen_hash()
    assert calibrate(extractor, images) == [FROZEN]
    assert extractor.frozen_hash() != before
    outputs = []
    norms = [m for m in extractor.ptms[0].backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(lambda m, i, o: outputs.append(o.clone())) for norm in norms]
    extractor.ptms[0].maps(images)
    for hook in hooks:
        hook.remove()
    assert len(outputs) == len(norms) == 10
    for output in outputs:
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(output.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(output.std((0, 2, 3)), torch.ones(output.shape[1]), atol=1e-2, rtol=0)
    after = extractor.frozen_hash()
    assert calibrate(extractor, images * 0.5) == []
    assert extractor.frozen_hash() == after
    fresh = make(ptms=[{"model_type": "resnet18_random"}, TRIO[1], TRIO[2]])
    fresh.load_state_dict(extractor.state_dict())
    assert fresh.needs_calibration() == []
    assert fresh.frozen_hash() == after


def test_calibration_refuses_too_few_or_equal_images():
    with pytest.raises(UserError, match="at least 512 images, got 511"):
        calibrate(make(), torch.rand(511, 3, 24, 24))
    with pytest.raises(UserError, match="all equal"):
        calibrate(make(), torch.rand(1, 3, 24, 24).expand(512, -1, -1, -1))
    assert calibrate(make(ptms=[TRIO[1]]), torch.zeros(1, 3, 24, 24)) == []


class Blank(Backbone):
    """Says the same of every image."""

    def forward(self, image):
        return torch.ones(len(image), 2, 1, 1)


def test_a_registered_model_is_built_and_checked(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    template = registry.ptm_type("graph_cnn").record
    record = dataclasses.replace(template, model_type="blank", name="blank", tap="end", taps={"end": 2})
    register_ptm(PTMType(record, lambda config, record: (Blank(), record)))
    assert not check_ptm(PTMConfig(model_type="blank")).varies
    extractor = make("sampled", ptms=[{"model_type": "blank"}, TRIO[1]])
    assert extractor.names == ("blank", "graph_cnn")
    assert call(extractor, *inputs()).shape == (11, D)


def test_check_of_a_working_model():
    found = check_ptm(PTMConfig(model_type="graph_cnn", tap="block1"))
    assert found.varies
    assert found.num_parameters == 3 * 64 * 9 + 128
    assert found.milliseconds > 0
    assert found.record.tap == "block1"
