"""jepa_robot: a robot agent that plans in the latent space of a learned JEPA world model."""

__version__ = "0.1.0"
