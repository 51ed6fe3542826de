"""The networks of a bundle, in torch again: what the robot runs is what it learns on from."""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from jepa_robot.learning.encoders import EncoderConfig
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.models import Bundle

LEARNED = ("predictor", "policy", "critic", "readout", "goal_encoder")


class NotRevivable(ValueError):
    """A bundle whose graphs do not say what networks they are."""


def revive(bundle: Bundle) -> Agent:
    """The agent of a bundle; its encoder is left as it comes, since nobody learns there.

    Exported graphs keep their parameters' names, and the manifest the recipe.

    Raises:
        NotRevivable: a parameter is missing or has another size; names it.
    """
    agent = Agent(_shape(bundle)).eval()
    for name in LEARNED:
        network: nn.Module | None = getattr(agent, name)
        if network is None or not bundle.has(name):
            continue
        graph = onnx.load(str(bundle.path / f"{name}.onnx")).graph
        known = {
            one.name.removeprefix(f"{name}."): numpy_helper.to_array(one)
            for one in graph.initializer
        }
        needed = {parameter for parameter, _ in network.named_parameters()}
        for parameter, value in network.state_dict().items():
            found = known.get(parameter)
            if found is None and parameter not in needed:
                continue  # a constant that nothing is computed from
            if found is None or found.shape != tuple(value.shape):
                what = "missing" if found is None else f"{list(found.shape)}"
                raise NotRevivable(
                    f"{bundle.path / name}.onnx: {parameter} is {what}, expected "
                    f"{list(value.shape)}"
                )
            value.copy_(torch.from_numpy(found.copy()))
    agent.critic.is_trained.fill_(bundle.has("critic"))
    return agent


def _shape(bundle: Bundle) -> AgentShape:
    manifest, jepa = bundle.manifest, bundle.manifest.get("recipe", {}).get("jepa")
    if jepa is None:
        raise NotRevivable(f"bundle {bundle.id} has no recipe, expected one that was trained")
    feels_hand = bundle.proprioception_size > bundle.measured_size
    return AgentShape(
        cameras=len(manifest["cameras"]),
        image_size=tuple(manifest["image_size"]),
        proprioception=bundle.proprioception_size,
        actions=bundle.action_size,
        latent=bundle.latent_size,
        history=bundle.history,
        goal=bundle.goal_size,
        z=bundle.z_size,
        encoder=EncoderConfig(**jepa.get("encoder", {})),
        predictor=PredictorConfig(**jepa.get("predictor", {})),
        joints=len(manifest["joints"]) if feels_hand else 0,
        relations=jepa.get("relations", False),
        critics=manifest.get("critics", 1),
    )
