"""What is wrong with some photos, and what would help most: `diagnose` is the job, `Diagnosis` what comes of it. numpy only."""

from edge_qprompt.learn.doctor.diagnosis import Diagnosis, Mislabelled, Overlap, Poor, Rare, Seen, Twins
from edge_qprompt.learn.doctor.examine import diagnose
from edge_qprompt.learn.doctor.growth import Gain, Growth, Point

__all__ = ["Diagnosis", "Gain", "Growth", "Mislabelled", "Overlap", "Point", "Poor", "Rare", "Seen", "Twins", "diagnose"]
