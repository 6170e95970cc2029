import pytest
import torch
from agent_cases import make_observation
from torch.nn import functional

from durotaxis.agent import ImageConfig, View
from durotaxis.agent.image import ImageMaker, frame_points, splat
from durotaxis.core.errors import UserError

ZERO = torch.zeros(1, dtype=torch.int64)


def view_of(observation):
    mask = observation.node_mask
    view = View(observation.position[mask], observation.frame_low, observation.frame_high, observation.field)
    return view, mask.nonzero()[:, 0]


def test_frame_points_closed_form():
    """Left edge -1, right edge 1; the top of the picture is the largest y; outside is clamped."""
    position = torch.tensor([[10.0, 20.0], [50.0, 100.0], [30.0, 40.0], [99.0, -5.0]])
    low, high = torch.tensor([[0.0, 0.0], [10.0, 20.0]]), torch.tensor([[1.0, 1.0], [50.0, 100.0]])
    points = frame_points(position, low, high, torch.tensor([1, 1, 1, 1]))
    expected = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.5], [1.0, 1.0]])
    torch.testing.assert_close(points, expected)


def test_splat_on_a_pixel_centre_and_between_four():
    centre = torch.tensor([[(2 * 7 + 1) / 24 - 1, (2 * 3 + 1) / 24 - 1]])  # column 7, row 3
    image = splat(torch.tensor([[1.0, 2.0]]), centre, ZERO, 1)
    expected = torch.zeros(1, 2, 24, 24)
    expected[0, :, 3, 7] = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)

    corner = torch.tensor([[2 * 8 / 24 - 1, 2 * 4 / 24 - 1]])  # where columns 7, 8 and rows 3, 4 meet
    image = splat(torch.ones(1, 1), corner, ZERO, 1)[0, 0]
    torch.testing.assert_close(image[3:5, 7:9], torch.full((2, 2), 0.25), rtol=0, atol=1e-5)
    assert float(image.sum()) == pytest.approx(1.0, abs=1e-5)

    quarter = torch.tensor([[(2 * 7 + 1.5) / 24 - 1, (2 * 3 + 1) / 24 - 1]])  # a quarter pixel to the right
    image = splat(torch.ones(1, 1), quarter, ZERO, 1)[0, 0]
    torch.testing.assert_close(image[3, 7:9], torch.tensor([0.75, 0.25]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("point", "row", "column"), [((-1, -1), 0, 0), ((1, -1), 0, 23), ((-1, 1), 23, 0), ((1, 1), 23, 23)]
)
def test_corners_of_the_frame_hold_all_the_mass(point, row, column):
    image = splat(torch.ones(1, 1), torch.tensor([point], dtype=torch.float32), ZERO, 1)[0, 0]
    assert float(image[row, column]) == pytest.approx(1.0)
    assert float(image.sum()) == pytest.approx(1.0)


def test_splat_is_the_adjoint_of_sampling():
    """<splat(colour), picture> = <colour, picture sampled>: against torch's own bilinear sampling."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 2, generator=generator) * 2 - 1
    colours = torch.randn(200, 3, generator=generator)
    batch = torch.randint(0, 4, (200,), generator=generator)
    picture = torch.randn(4, 3, 24, 24, generator=generator)
    images = splat(colours, points, batch, 4)
    for b in range(4):
        own = batch == b
        sampled = functional.grid_sample(
            picture[b : b + 1], points[own].view(1, 1, -1, 2), padding_mode="border", align_corners=False
        )[0, :, 0].T
        left, right = (images[b] * picture[b]).sum(), (colours[own] * sampled).sum()
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(images[b].sum((1, 2)), colours[own].sum(0), rtol=1e-4, atol=1e-4)


def test_the_field_is_taken_as_it_is():
    observation = make_observation([3, 2], 4)
    view, batch = view_of(observation)
    picture = ImageMaker(ImageConfig(), 8)(torch.randn(5, 8), torch.randn(2, 8), batch, view)
    assert picture.image is observation.field
    assert not list(ImageMaker(ImageConfig(), 8).parameters())


def test_tokens_paint_each_node_at_its_place():
    """One colony whose nodes sit on pixel centres: the picture is 1 - exp(-colour) there, 0 elsewhere."""
    torch.manual_seed(0)
    maker = ImageMaker(ImageConfig(source="tokens"), 4)
    nodes, token = torch.randn(2, 4), torch.randn(1, 4)
    view = View(torch.tensor([[0.5, 0.5], [23.5, 11.5]]), torch.zeros(1, 2), torch.full((1, 2), 24.0))
    image = maker(nodes, token, torch.zeros(2, dtype=torch.int64), view).image[0].detach()
    colour = functional.softplus(maker.projection(torch.cat([nodes, token.expand(2, 4)], 1))).detach()
    torch.testing.assert_close(image[:, 23, 0], 1 - torch.exp(-colour[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image[:, 12, 23], 1 - torch.exp(-colour[1]), rtol=1e-4, atol=1e-5)
    assert int((image > 1e-4).sum()) == 6


@pytest.mark.parametrize("scope", ["graph", "node"])
def test_token_pictures_lie_in_the_unit_interval_and_carry_gradients(scope):
    torch.manual_seed(0)
    config = ImageConfig(source="tokens", scope=scope, readout="pooled")
    view, batch = view_of(make_observation([3, 0, 4], 5))
    nodes, tokens = torch.randn(7, 8) * 20, torch.randn(3, 8)
    nodes.requires_grad_()
    tokens.requires_grad_()
    picture = ImageMaker(config, 8)(nodes, tokens, batch, view if scope == "graph" else None)
    assert picture.image.shape == ((3 if scope == "graph" else 7), 3, 24, 24)
    assert float(picture.image.detach().min()) >= 0
    assert float(picture.image.detach().max()) <= 1
    (picture.image * torch.randn_like(picture.image)).sum().backward()
    assert float(nodes.grad.abs().amax(1).min()) > 0
    assert float(tokens.grad[[0, 2]].abs().amax(1).min()) > 0


def test_what_is_missing_is_named():
    nodes, tokens, batch = torch.randn(2, 8), torch.randn(1, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UserError, match="view="):
        ImageMaker(ImageConfig(source="tokens"), 8)(nodes, tokens, batch, None)
    view = View(torch.rand(2, 2), torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(UserError, match=r"env\.observation\.field=true"):
        ImageMaker(ImageConfig(), 8)(nodes, tokens, batch, view)
