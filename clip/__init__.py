"""Video file -> uint8 tensor: the one implementation that training and service share.

from clip import ClipSpec, read_clip
frames = read_clip("clip.mp4")          # uint8, (20, 64, 64, 3), RGB
"""

from clip.decode import ClipInfo, Limits, SampledClip, read_clip, sample_clip
from clip.errors import ClipError, ManifestError, SpecError
from clip.manifest import ModelManifest
from clip.spec import ClipSpec

__all__ = [
    "ClipError",
    "ClipInfo",
    "ClipSpec",
    "Limits",
    "ManifestError",
    "ModelManifest",
    "SampledClip",
    "SpecError",
    "read_clip",
    "sample_clip",
]
