"""Energies and the losses that shape them (torch): the one home of VICReg and SIGReg."""

from jepa_robot.energy.regularizers import SIGReg, VICReg, covariance_loss, variance_loss

__all__ = ["SIGReg", "VICReg", "covariance_loss", "variance_loss"]
