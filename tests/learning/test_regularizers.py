"""VICReg and SIGReg: known values, where their gradients point, and that they see a collapse."""

import pytest
import torch

from jepa_robot.energy import SIGReg, VICReg, covariance_loss, variance_loss


@pytest.fixture
def gaussian():
    return torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[VICReg(10.0, 0.3), SIGReg()], ids=["vicreg", "sigreg"])
def regularizer(request):
    torch.manual_seed(0)
    return request.param


def test_variance_of_a_constant_is_the_target_less_the_square_root_of_epsilon():
    assert variance_loss(torch.ones(50, 4)).item() == pytest.approx(1 - 0.01, abs=1e-6)


def test_variance_is_zero_once_every_dimension_is_spread():
    values = torch.tensor([[-2.0, 3.0], [2.0, -3.0]] * 10)
    assert variance_loss(values).item() == 0


def test_variance_averages_over_dimensions():
    values = torch.tensor([[-2.0, 1.0], [2.0, 1.0]] * 10)
    assert variance_loss(values).item() == pytest.approx(0.99 / 2, abs=1e-6)


def test_covariance_of_a_repeated_dimension_is_its_squared_variance():
    column = torch.tensor([[-1.0], [1.0]] * 8)
    variance = 16 / 15
    assert covariance_loss(column.repeat(1, 2)).item() == pytest.approx(variance**2)


def test_covariance_of_independent_dimensions_is_zero():
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    assert covariance_loss(corners).item() == pytest.approx(0)


def test_sigreg_of_a_point_mass_at_zero_is_its_integral():
    """|1 - exp(-t²/2)|² exp(-t²/2) over all t: sqrt(2π) (1 - 2/sqrt(2) + 1/sqrt(3))."""
    expected = (2 * torch.pi) ** 0.5 * (1 - 2 / 2**0.5 + 1 / 3**0.5)
    fine = SIGReg(projections=4, knots=400, limit=8.0)
    assert fine(torch.zeros(10, 3)).item() == pytest.approx(expected, rel=1e-3)


def test_sigreg_is_smallest_for_a_standard_normal(gaussian):
    torch.manual_seed(0)
    sigreg = SIGReg(projections=256)
    best = sigreg(gaussian)
    for other in (0.5 * gaussian, 2 * gaussian, gaussian + 1, gaussian.sign()[:, :1] * 1.7):
        assert sigreg(other) > 5 * best


def test_a_collapse_costs_more_than_a_spread(regularizer, gaussian):
    assert regularizer(torch.full((2000, 8), 0.3)) > 10 * regularizer(gaussian)


def test_a_collapse_into_one_direction_costs_more_than_a_spread(regularizer, gaussian):
    assert regularizer(gaussian[:, :1].repeat(1, 8)) > 3 * regularizer(gaussian)


def test_descent_spreads_what_has_nearly_collapsed(regularizer, gaussian):
    latents = (0.1 * gaussian[:256]).requires_grad_()
    optimizer = torch.optim.Adam([latents], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        regularizer(latents).backward()
        optimizer.step()
    assert latents.std(dim=0).min() > 0.6


def test_regularizers_do_not_grow_with_the_batch(regularizer, gaussian):
    small, large = regularizer(0.3 * gaussian[:1000]), regularizer(0.3 * gaussian)
    assert large.item() == pytest.approx(small.item(), rel=0.2)
