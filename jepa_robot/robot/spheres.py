"""Links as a few spheres each: distances that are smooth, and cheap for many poses at once.

Spheres are fitted to the distances of points around a link from its hull, a centimetre or two off.
For costs, not for safety: the safety stage measures by `jepa_robot.robot.collision`.
"""

from __future__ import annotations

from collections.abc import Sequence

import coal
import numpy as np
import pinocchio

HEIGHTS = (0.01, 0.03, 0.06)  # m above the hull, where distances are to be right
POINTS = 400  # of a link's surface
ROUNDS, RATE = 150, 0.004  # of Adam, and m
TOO_NEAR = 0.5  # how much it counts to be nearer than the hull, of 1 for being farther


def fit_spheres(shapes: Sequence[pinocchio.GeometryObject], count: int) -> np.ndarray:
    """``[count, 4]``: centres (m, frame of the joint that moves the shapes) and radii (m)."""
    rng = np.random.default_rng(0)
    surface, outwards = _surface(shapes, rng)
    points = np.concatenate([surface + height * outwards for height in HEIGHTS])
    heights = np.repeat(HEIGHTS, POINTS)
    wanted = np.minimum(heights, np.sqrt(_squares(points, surface).min(axis=1)))
    spheres = _begin(surface, count)
    mean, square = np.zeros_like(spheres), np.zeros_like(spheres)
    rows = np.arange(len(points))
    for step in range(1, ROUNDS + 1):
        away = points[:, None] - spheres[None, :, :3]
        far = np.linalg.norm(away, axis=2)
        nearest = (far - spheres[:, 3]).argmin(axis=1)
        error = far[rows, nearest] - spheres[nearest, 3] - wanted
        error *= np.where(error > 0, 1, TOO_NEAR)
        along = away[rows, nearest] / np.maximum(far[rows, nearest, None], 1e-9)
        slope = np.zeros_like(spheres)
        np.add.at(slope, nearest, -error[:, None] * np.append(along, np.ones((len(rows), 1)), 1))
        slope /= len(points)
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        first, second = mean / (1 - 0.9**step), np.sqrt(square / (1 - 0.99**step))
        spheres = spheres - RATE * (1 - step / ROUNDS) * first / (second + 1e-9)
    return spheres


def _begin(surface: np.ndarray, count: int) -> np.ndarray:
    """Spheres from the surface's parts that are farthest from each other."""
    centres = surface[_squares(surface, surface.mean(axis=0)[None])[:, 0].argmax()][None]
    while len(centres) < count:
        farthest = _squares(surface, centres).min(axis=1).argmax()
        centres = np.append(centres, surface[farthest][None], axis=0)
    for _ in range(8):
        nearest = _squares(surface, centres).argmin(axis=1)
        for index in np.unique(nearest):
            centres[index] = surface[nearest == index].mean(axis=0)
    radii = np.full((count, 1), 0.01)
    nearest = _squares(surface, centres)
    owner = nearest.argmin(axis=1)
    for index in np.unique(owner):
        radii[index] = np.sqrt(nearest[owner == index, index]).mean()
    return np.append(centres, radii, axis=1)


def _squares(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return ((points[:, None] - others[None]) ** 2).sum(axis=2)


def _surface(
    shapes: Sequence[pinocchio.GeometryObject], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[POINTS, 3]`` of the shapes' hulls, and the way out there."""
    corners, normals = [], []
    for shape in shapes:
        placed = _triangles(shape.geometry) @ shape.placement.rotation.T
        placed = placed + shape.placement.translation
        normal = np.cross(placed[:, 1] - placed[:, 0], placed[:, 2] - placed[:, 0])
        inside = placed.reshape(-1, 3).mean(axis=0)
        sides = ((placed.mean(axis=1) - inside) * normal).sum(axis=1, keepdims=True)
        corners.append(placed)
        normals.append(normal * np.sign(sides))
    triangles, normal = np.concatenate(corners), np.concatenate(normals)
    areas = np.linalg.norm(normal, axis=1)
    chosen = rng.choice(len(triangles), POINTS, p=areas / areas.sum())
    weights = rng.dirichlet(np.ones(3), POINTS)
    points = np.einsum("nc,ncx->nx", weights, triangles[chosen])
    return points, normal[chosen] / areas[chosen, None]


def _triangles(shape: coal.ShapeBase) -> np.ndarray:
    """``[F, 3, 3]``: corners of the faces of a shape's hull, in its own frame."""
    if isinstance(shape, coal.Convex):
        faces = [
            [shape.polygons(i)[corner] for corner in range(3)] for i in range(shape.num_polygons)
        ]
        return np.asarray(shape.points())[faces]
    vectors = coal.StdVec_Vec3s()
    for point in _outline(shape):
        vectors.append(point)
    return _triangles(coal.Convex.convexHull(vectors, True, "Qt"))


def _outline(shape: coal.ShapeBase) -> np.ndarray:
    """Points ``[K, 3]`` whose hull is nearly the shape."""
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns), np.zeros(16)], axis=1)
    if isinstance(shape, coal.Box):
        signs = np.stack(np.meshgrid(*3 * [[-1.0, 1.0]]), axis=-1).reshape(-1, 3)
        return signs * np.ravel(shape.halfSide)
    if isinstance(shape, (coal.Cylinder, coal.Capsule)):
        ends = shape.halfLength + (shape.radius if isinstance(shape, coal.Capsule) else 0)
        rings = [
            shape.radius * circle + [0, 0, end] for end in (-shape.halfLength, shape.halfLength)
        ]
        return np.concatenate([*rings, [[0, 0, -ends], [0, 0, ends]]])
    shape.computeLocalAABB()  # a sphere, or what is rare: the ball that holds it
    tilts = np.linspace(0, np.pi, 9)
    rings = [np.sin(tilt) * circle + [0, 0, np.cos(tilt)] for tilt in tilts]
    return np.ravel(shape.aabb_center) + shape.aabb_radius * np.concatenate(rings)
