"""The intrinsic terms in torch: where ``modules/intrinsic.onnx`` and the fused graphs come from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa_robot.modules.intrinsic import LAYOUT, LINKS, SPHERES

LIMIT_MARGIN = 0.1  # rad: nearer to a joint limit than this costs
OUTSIDE = 0.1  # m: out of the workspace by this costs 1
SMALLEST = 1e-12  # squared m; nearer than that there is no way down


class Moved(NamedTuple):
    """What M states have of the body, ``[M, JOINTS]`` each: now, and a step before.

    ``action`` ``[M, A]`` led there, ``surprise`` ``[M]`` came with it; ``limits`` ``[L]``.
    """

    joints: Tensor
    velocities: Tensor
    joints_before: Tensor
    velocities_before: Tensor
    action: Tensor
    surprise: Tensor
    limits: Tensor


def unpack(limits: Tensor) -> dict[str, Tensor]:
    """``[L]`` as named parts."""
    parts, start = {}, 0
    for name, shape in LAYOUT.items():
        end = start + int(np.prod(shape))
        parts[name] = limits[start:end].reshape(shape)
        start = end
    return parts


def comfort(*moved: Tensor) -> Tensor:
    """What motion costs, ``[M, 5]``: joint limits, speed, effort, jerk, surprise.

    ``Σ max(1 - margin / 0.1 rad, 0)²``; ``Σ (q̇ / q̇_max)²``; ``|a|²``; ``Σ (q⃛ Δt² / 6 q̇_max)²``
    of the cubic through both states, 1 for a joint that is at its full speed at once; the surprise
    as it comes.
    """
    seen = Moved(*moved)
    of = unpack(seen.limits)
    margin = torch.minimum(seen.joints - of["lower"], of["upper"] - seen.joints)
    gone = 2 * (seen.joints - seen.joints_before) / of["step"]
    jerk = (seen.velocities_before + seen.velocities - gone) * of["slowness"]
    terms = [
        torch.relu(1 - margin / LIMIT_MARGIN).square().sum(dim=1),
        (seen.velocities * of["slowness"]).square().sum(dim=1),
        seen.action.square().sum(dim=1),
        jerk.square().sum(dim=1),
        seen.surprise,
    ]
    return torch.stack(terms, dim=1)


def clearance(joints: Tensor, limits: Tensor) -> Tensor:
    """What places cost, ``[M, 3]``: self-collision, obstacles, leaving the workspace.

    ``Σ max(1 - d / d_near, 0)²`` over distances d of spheres that links are made of, from those of
    links that are no neighbours, and from boxes; ``Σ max(x - upper, lower - x, 0)² / (0.1 m)²`` of
    the hand.
    """
    of = unpack(limits)
    places, hand = place(joints, of)
    selves, kept = between_links(places, of)
    boxes = from_boxes(places, of)
    lower, upper = of["workspace"]
    outside = torch.relu(hand - upper) + torch.relu(lower - hand)
    near = of["near"]
    terms = [
        kept @ torch.relu(1 - selves / near).square(),
        torch.relu(1 - boxes / near).square().flatten(1).sum(dim=1),
        (outside / OUTSIDE).square().sum(dim=1),
    ]
    return torch.stack(terms, dim=1)


def place(joints: Tensor, of: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Centres of spheres ``[M, 3, LINKS SPHERES]`` and the hand ``[M, 3]`` (m, base frame)."""
    count = joints.shape[0]
    chain = joints @ of["order"]
    centres = of["spheres"][:, :, :3]
    points = of["tip"].reshape(1, 1, 3).expand(count, 1, 3)
    for joint in reversed(range(LINKS - 1)):
        mine = centres[joint + 1].unsqueeze(0).expand(count, SPHERES, 3)
        points = torch.cat([points, mine], dim=1)
        angle = chain[:, joint : joint + 1].unsqueeze(2)
        kept, turned, lifted = (points @ of["turns"][joint]).split(3, dim=2)
        points = kept + angle.sin() * turned + (1 - angle.cos()) * lifted
        points = points + of["shifts"][joint, 0] + angle * of["shifts"][joint, 1]
    still = centres[0].unsqueeze(0).expand(count, SPHERES, 3)
    hand, *links = points.split([1] + [SPHERES] * (LINKS - 1), dim=1)
    return torch.cat([still, *links[::-1]], dim=1).transpose(1, 2), hand[:, 0]


def between_links(places: Tensor, of: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Distances (m) ``[pairs, M]`` of links' spheres from each other, and which count ``[pairs]``.

    Links that follow each other are no pairs.
    """
    links = places.permute(2, 1, 0).unflatten(0, (LINKS, SPHERES))
    radii = of["spheres"][:, :, 3]
    away, touching = [], []
    for apart in range(2, LINKS):
        away.append((links[apart:, None] - links[:-apart, :, None]).flatten(0, 2))
        touching.append((radii[apart:, None] + radii[:-apart, :, None]).flatten())
    away = torch.cat(away)
    far = (away * away).sum(dim=1).clamp(min=SMALLEST).sqrt()
    kept = of["apart"][:, None].expand(-1, SPHERES**2).flatten()
    return far - torch.cat(touching)[:, None], kept


def from_boxes(places: Tensor, of: dict[str, Tensor]) -> Tensor:
    """Distances (m) of all moving spheres from all boxes, ``[M, BOXES, spheres]``."""
    lower, upper = of["boxes"].permute(1, 2, 0).unsqueeze(3)
    centres = places[:, :, SPHERES:].unsqueeze(2)
    beyond = (centres - (lower + upper) / 2).abs() - (upper - lower) / 2
    outside = torch.relu(beyond)
    outside = (outside * outside).sum(dim=1).clamp(min=SMALLEST).sqrt()
    x, y, z = beyond.unbind(dim=1)
    inside = -torch.relu(-torch.maximum(x, torch.maximum(y, z)))
    return outside + inside - of["spheres"][1:, :, 3].flatten()
