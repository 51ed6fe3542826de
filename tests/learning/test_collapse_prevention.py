"""Each way to prevent collapse: known values, where gradients go, and that it does prevent it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from jepa_robot.energy import (
    PREVENTIONS,
    MovingAverage,
    PreventionConfig,
    SIGReg,
    VICReg,
    make_prevention,
)
from jepa_robot.energy.collapse import BYOL, BarlowTwins, InfoNCE, SimSiam
from jepa_robot.learning.optimize import Optimizer

B, T, D = 32, 5, 4
SETTINGS = PreventionConfig()
STANDARDISED = ("barlow_twins", "byol", "simsiam")


def draw(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def prevention_of(name):
    torch.manual_seed(0)
    return make_prevention(name, SETTINGS, D)


@pytest.mark.parametrize("name", PREVENTIONS)
def test_every_method_gives_a_finite_scalar_and_gradients_where_it_says(name):
    prevention = prevention_of(name)
    latents, predicted, target = draw(B, T, D), draw(B, T - 1, D, seed=1), draw(B, T - 1, D, seed=2)
    for tensor in (latents, predicted, target):
        tensor.requires_grad_()
    loss = prevention(latents, predicted, target)
    assert loss.shape == ()
    assert loss.isfinite()
    if name == "none":
        assert loss == 0
        return
    loss.backward()
    is_regularizer = name in ("vicreg", "sigreg")
    assert (latents.grad is not None) == is_regularizer
    assert (predicted.grad is not None) == (not is_regularizer)
    assert (target.grad is not None) == (name in ("barlow_twins", "infonce"))
    assert (prevention.targets == "online") == (name not in ("byol", "simsiam"))
    for parameter in prevention.parameters():
        assert parameter.grad is not None


@pytest.mark.parametrize("name", PREVENTIONS)
def test_a_collapsed_batch_gives_a_finite_gradient(name):
    predicted = torch.full((B, T - 1, D), 0.3, requires_grad=True)
    latents = torch.full((B, T, D), 0.3, requires_grad=True)
    (prevention_of(name)(latents, predicted, latents[:, 1:]) + 0 * latents.sum()).backward()
    assert latents.grad.isfinite().all()


def test_regularisers_see_all_frames_and_nothing_else():
    latents, other = draw(B, T, D), draw(B, T - 1, D, seed=1)
    vicreg = prevention_of("vicreg")(latents, other, other)
    torch.testing.assert_close(vicreg, VICReg(10.0, 0.3)(latents.flatten(0, 1)))
    prevention = prevention_of("sigreg")
    torch.manual_seed(3)
    sigreg = prevention(latents, other, other)
    torch.manual_seed(3)
    torch.testing.assert_close(sigreg, SETTINGS.sigreg * SIGReg()(latents.flatten(0, 1)))


def corners():
    """``[4, 1, 2]``: two independent numbers of variance 1."""
    return torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).unsqueeze(1)


def test_barlow_twins_of_equal_independent_numbers_is_zero():
    assert BarlowTwins(1.0, 0.1, 0.0)(None, corners(), corners()).item() == pytest.approx(
        0, abs=1e-6
    )


def test_barlow_twins_of_opposite_numbers_is_four_and_of_unrelated_ones_one():
    loss = BarlowTwins(1.0, 0.1, 0.0)
    assert loss(None, -corners(), corners()).item() == pytest.approx(4, abs=1e-3)
    unrelated = corners()[:, :, :1] * corners()[:, :, 1:]  # independent of both in pairs
    both = unrelated.repeat(1, 1, 2)
    assert loss(None, both, corners()).item() == pytest.approx(1, abs=1e-3)


def test_barlow_twins_weighs_redundancy():
    """One number twice: both correlations off the diagonal are 1, so 2 λ / D."""
    twice = corners()[:, :, :1].repeat(1, 1, 2)
    loss = BarlowTwins(1.0, 0.3, 0.0)(None, twice, twice)
    assert loss.item() == pytest.approx(0.3, abs=1e-4)


def test_barlow_twins_measures_prediction_in_standard_deviations():
    loss = BarlowTwins(0.0, 0.0, 2.0)
    target = 5 * corners()
    assert loss(None, target + 0.5 * 5, target).item() == pytest.approx(2 * 0.25, rel=1e-3)


def test_infonce_of_one_place_is_the_logarithm_of_the_batch():
    same = torch.ones(B, 3, D)
    assert InfoNCE(1.0, 0.5)(None, same, same).item() == pytest.approx(math.log(B), rel=1e-5)


def test_infonce_of_two_windows_is_known():
    """A target on the spot, the other at energy 1/D: log(1 + exp(-1 / (D τ)))."""
    target = torch.zeros(2, 1, D)
    target[1, 0, 0] = 1
    expected = math.log(1 + math.exp(-1 / (D * 0.5)))
    assert InfoNCE(1.0, 0.5)(None, target, target).item() == pytest.approx(expected, rel=1e-5)


def test_infonce_has_no_negatives_in_its_own_window():
    """Steps that are all alike within a window, far from other windows, cost nothing."""
    windows = 100 * draw(B, 1, D).repeat(1, 3, 1)
    assert InfoNCE(1.0, 0.5)(None, windows, windows).item() == pytest.approx(0, abs=1e-6)


def test_infonce_pulls_to_its_own_target_and_pushes_from_the_others():
    predicted = torch.zeros(2, 1, 1, requires_grad=True)
    target = torch.tensor([1.0, -2.0]).reshape(2, 1, 1)
    InfoNCE(1.0, 0.5)(None, predicted, target).backward()
    assert predicted.grad[0].item() < 0  # descends towards 1
    assert predicted.grad[1].item() > 0  # and towards -2


class Same(nn.Module):
    def forward(self, values):
        return values


def test_cosines_of_equal_and_opposite_latents_are_known():
    values = draw(B, 3, D)
    for method, equal, opposite in ((SimSiam, -1, 1), (BYOL, 0, 4)):
        loss = method(D, 1.0)
        loss.head = Same()
        assert loss(None, values, values).item() == pytest.approx(equal, abs=1e-5)
        assert loss(None, -values, values).item() == pytest.approx(opposite, abs=1e-5)


@pytest.mark.parametrize("name", STANDARDISED)
def test_what_is_standardised_does_not_depend_on_the_scale_of_latents(name):
    prevention = prevention_of(name)
    predicted, target = draw(B, 3, D), draw(B, 3, D, seed=1)
    torch.testing.assert_close(
        prevention(None, 3 + 10 * predicted, 3 + 10 * target),
        prevention(None, predicted, target),
        atol=1e-3,
        rtol=1e-3,
    )


class Walk:
    """Windows of a walk in a square, seen through a fixed random network of ten outputs."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        self.maps = [torch.randn(2, 16, generator=self.generator)]
        self.maps.append(torch.randn(16, 10, generator=self.generator) / 4)

    def draw(self, count):
        start = torch.rand(count, 1, 2, generator=self.generator) * 2 - 1
        actions = torch.rand(count, T - 1, 2, generator=self.generator) - 0.5
        places = torch.cat([start, start + actions.cumsum(dim=1)], dim=1)
        return places, torch.tanh(places @ self.maps[0]) @ self.maps[1], actions


def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def train(name, iterations=250):
    """Latents ``[M, D]`` and places ``[M, 2]`` of a JEPA that has nothing but this method."""
    torch.manual_seed(0)
    walk, prevention = Walk(), prevention_of(name)
    encoder, step = net(10, D), net(D + 2, D)
    average = MovingAverage(encoder, SETTINGS.decay)
    parameters = [p for m in (encoder, step, prevention) for p in m.parameters()]
    optimizer = Optimizer(parameters, iterations, 3e-3)

    def rollout(latent, actions):
        states = []
        for action in actions.unbind(dim=1):
            latent = latent + step(torch.cat([latent, action], dim=1))
            states.append(latent)
        return torch.stack(states, dim=1)

    for _ in range(iterations):
        _, seen, actions = walk.draw(64)
        latents = encoder(seen)
        target = latents if prevention.targets == "online" else latents.detach()
        target = (average(seen) if prevention.targets == "average" else target)[:, 1:]
        predicted = rollout(latents[:, 0], actions)
        loss = prevention(latents, predicted, target)
        if not prevention.prediction_trains_encoder:
            target = latents[:, 1:].detach()
            predicted = rollout(latents[:, 0].detach(), actions)
        if not prevention.replaces_prediction:
            loss = loss + 10 * functional.mse_loss(predicted, target)
        optimizer.step(loss)
        average.update(encoder)
    places, seen, _ = walk.draw(300)
    with torch.no_grad():
        return encoder(seen).flatten(0, 1), places.flatten(0, 1)


def linear_r2(latents, places):
    inputs = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    residual = places - inputs @ torch.linalg.lstsq(inputs, places).solution
    return 1 - (residual.var(dim=0) / places.var(dim=0)).mean().item()


@pytest.mark.parametrize("name", [name for name in PREVENTIONS if name != "none"])
def test_it_prevents_collapse_and_keeps_what_was_seen(name):
    latents, places = train(name)
    assert latents.std(dim=0).max() > 0.3
    assert linear_r2(latents, places) > 0.8


def test_without_any_it_collapses():
    latents, _ = train("none")
    assert latents.std(dim=0).max() < 0.05


def test_a_moving_average_starts_as_a_copy_and_follows_by_its_decay():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = MovingAverage(network, 0.9)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight += 1
        network[1].running_mean += 5
    assert torch.equal(average.network[0].weight, before)
    average.update(network)
    torch.testing.assert_close(average.network[0].weight, before + 0.1)
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    for _ in range(200):
        average.update(network)
    torch.testing.assert_close(average.network[0].weight, before + 1)


def test_no_gradient_flows_through_a_moving_average():
    average = MovingAverage(nn.Linear(3, 2))
    inputs = torch.ones(4, 3, requires_grad=True)
    assert not average(inputs).requires_grad
    assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variance": -1.0}, "prevention.variance is -1.0, expected a number from 0"),
        ({"temperature": 0}, "prevention.temperature is 0, expected a number above 0"),
        ({"decay": 1.0}, "prevention.decay is 1.0, expected a number from 0 to below 1"),
        ({"sigreg": "much"}, "prevention.sigreg is 'much', expected a number from 0"),
        ({"byol": math.nan}, "prevention.byol is nan, expected a number from 0"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PreventionConfig(**settings)


def test_an_unknown_method_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="prevention is 'dino', expected one of vicreg, sigreg"):
        make_prevention("dino", SETTINGS, D)
