"""The control `noise`: one map per picture, unrelated to what is in it."""

from __future__ import annotations

import pytest
import torch

from durotaxis.core.errors import UserError
from durotaxis.fusion import MultiPTMFeatureExtractor, PTMConfig, build_ptm, check_ptm, list_ptms
from durotaxis.fusion.backbones.noise import picture_keys
from durotaxis.fusion.config import resolve_ptms, validated

TAPS = {"block1": (64, 12), "block2": (128, 6), "block3": (256, 3)}


def pictures(count, seed=0):
    return torch.rand((count, 3, 24, 24), generator=torch.Generator().manual_seed(seed))


def noise(**options):
    return build_ptm(PTMConfig(model_type="noise", **options), 8)


def test_it_has_the_shape_of_graph_cnn_and_no_weights():
    entry = next(record for record in list_ptms() if record.model_type == "noise")
    assert entry.source == "control: noise"
    for tap, (width, side) in TAPS.items():
        ptm = noise(tap=tap)
        assert ptm.maps(pictures(2)).shape == (2, width, side, side)
        assert ptm.maps(pictures(2)[:, :, :23]).shape == build_cnn(tap).maps(pictures(2)[:, :, :23]).shape
        assert (ptm.record.width, list(ptm.backbone.parameters()), ptm.is_frozen) == (width, [], True)
    assert check_ptm(PTMConfig(model_type="noise")).verdict == "varies"


def build_cnn(tap):
    return build_ptm(PTMConfig(model_type="graph_cnn", tap=tap), 8)


def test_a_picture_has_one_map_whatever_stands_beside_it():
    images, ptm = pictures(7), noise(tap="block2")
    together = ptm.maps(images)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.equal(ptm.maps(images[order]), together[order])
    for i in range(7):
        assert torch.equal(ptm.maps(images[i : i + 1])[0], together[i])
    laid_out = images.to(memory_format=torch.channels_last)
    assert torch.equal(ptm.maps(laid_out), together)
    assert torch.equal(noise(tap="block2").maps(images), together)
    assert not torch.equal(noise(tap="block2", seed=1).maps(images), together)


def test_minus_zero_is_zero():
    dark = torch.zeros(1, 3, 24, 24)
    assert torch.equal(noise().maps(-dark), noise().maps(dark))


def test_one_bit_changes_everything():
    """5 standard errors of a correlation of unrelated numbers; 100 pictures with one bit changed somewhere."""
    image, ptm = pictures(1), noise(tap="block1")
    count = 100
    near = image.repeat(count, 1, 1, 1)
    pixels = torch.arange(count) * 17
    rows = near.view(count, -1)
    rows[torch.arange(count), pixels] = torch.nextafter(rows[torch.arange(count), pixels], torch.tensor(2.0))
    assert int((near != image).sum()) == count
    maps = torch.cat([ptm.maps(image), ptm.maps(near)]).flatten(1)
    correlation = torch.corrcoef(maps) - torch.eye(count + 1)
    assert float(correlation.abs().max()) < 6 / maps.shape[1] ** 0.5
    assert float(correlation.mean().abs()) < 5 / (maps.shape[1] * count**2 / 2) ** 0.5


def test_pictures_with_the_same_pixels_elsewhere_are_other_pictures():
    image = pictures(1)
    shifted = torch.stack([image[0], image[0].roll(1, 2), image[0].flip(2), image[0].roll(1, 0)])
    assert len(set(picture_keys(shifted, 0).tolist())) == 4


def test_features_are_standard_normal():
    maps = noise(tap="block1").maps(pictures(40)).flatten().double()
    error = len(maps) ** -0.5
    assert abs(float(maps.mean())) < 5 * error
    assert abs(float(maps.var()) - 1) < 5 * 2**0.5 * error
    assert abs(float((maps**4).mean()) - 3) < 5 * 96**0.5 * error


def test_features_say_nothing_linear_about_the_picture():
    """Ridge regression on them recovers of held-out pictures what it recovers of random numbers: nothing."""
    brightness = torch.linspace(0, 1, 400)[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    images = pictures(400) * brightness.view(-1, 1, 1, 1)
    target = brightness.double() - 0.5

    def explained(ptm):
        features = ptm.pooled(images).double()
        features = (features - features.mean(0)) / features.std(0)
        train, test = features[:280], features[280:]
        weights = torch.linalg.solve(
            train.T @ train + 10 * torch.eye(train.shape[1], dtype=torch.float64), train.T @ target[:280]
        )
        return 1 - float((test @ weights - target[280:]).square().mean() / target[280:].var())

    with torch.no_grad():
        assert explained(noise(tap="block1")) < 0.1
        assert explained(build_cnn("block1")) > 0.9


def test_it_works_among_other_models_with_readout_sampled():
    images, places = pictures(3), torch.rand(11, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    batch = torch.tensor([0] * 4 + [1] * 5 + [2] * 2)
    ptms = [{"model_type": "graph_cnn", "freeze": False, "tap": "block1"}, {"model_type": "noise"}]
    torch.manual_seed(0)
    extractor = MultiPTMFeatureExtractor(16, 8, ptms, context_input_dim=4, context="node", readout="sampled")
    rows = torch.randn(11, 4)
    cached = extractor.precompute(images, places, batch)
    assert set(cached) == {"noise"}
    direct, attention = extractor(images, rows, points=places, batch=batch, return_attention=True)
    from_cache = extractor(images, rows, points=places, batch=batch, cached=cached)
    torch.testing.assert_close(direct, from_cache, atol=1e-5, rtol=1e-5)
    direct.sum().backward()
    assert bool(extractor.ptms[1].projection.weight.grad.abs().sum() > 0)
    alone = extractor(images[1:2], rows[4:9], points=places[4:9], batch=batch[4:9] - 1)
    torch.testing.assert_close(alone, direct[4:9], atol=1e-5, rtol=1e-5)
    assert attention.shape == (11, 2)


def test_several_have_seeds_of_their_own():
    ptms = resolve_ptms([PTMConfig(model_type="noise"), PTMConfig(model_type="noise")])
    assert [(ptm.name, ptm.seed) for ptm in ptms] == [("noise", 0), ("noise_2", 1)]
    assert noise(seed=5).record.source == "control: noise from seed 5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": False}, "freeze: noise is a control that cannot learn; remove the key"),
        ({"unfreeze_at": 100}, "unfreeze_at: noise is a control without it; remove the key"),
        ({"upsample": 48}, "upsample: noise is a control without it; remove the key"),
        ({"weights": "x"}, "noise does not read 'weights'; remove the key"),
        ({"pooling": "token"}, "noise has no summary of its own"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        validated(PTMConfig, model_type="noise", **options)
