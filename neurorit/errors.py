"""What a caller of the library may want to catch: every error that it raises on purpose."""

from neurorit.core.errors import ArtifactError, BadInput, GateMissed, MissingExtra, NeuroritError

__all__ = ["ArtifactError", "BadInput", "GateMissed", "MissingExtra", "NeuroritError"]
