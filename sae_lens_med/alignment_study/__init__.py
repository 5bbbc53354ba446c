"""Alignment metrics of a finished study: measure them, keep them in its folder, say what they mean, compare studies."""

from sae_lens_med.alignment_study.compare import Comparison, compare_studies
from sae_lens_med.alignment_study.run import AlignmentRun, run_alignment

__all__ = ["AlignmentRun", "Comparison", "compare_studies", "run_alignment"]
