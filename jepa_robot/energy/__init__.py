"""Energies and the losses that shape them (torch): the one home of VICReg and SIGReg."""

from jepa_robot.energy.collapse import (
    PREVENTIONS,
    MovingAverage,
    Prevention,
    PreventionConfig,
    make_prevention,
)
from jepa_robot.energy.regularizers import SIGReg, VICReg, covariance_loss, variance_loss

__all__ = [
    "PREVENTIONS",
    "MovingAverage",
    "Prevention",
    "PreventionConfig",
    "SIGReg",
    "VICReg",
    "covariance_loss",
    "make_prevention",
    "variance_loss",
]
