"""Gives the technician's page something new to show after each frame."""

from __future__ import annotations

from edge_runtime.pipeline import Pipeline
from edge_runtime.services.health import HealthReport
from edge_runtime.view.server import View


class Page:
    """Hands the page the last snapshot and the health.

    Args:
        view: the page.
        pipeline: whose snapshot is shown.
        report: whose health is shown.
    """

    period_ms = 0.0

    def __init__(self, view: View, pipeline: Pipeline, report: HealthReport) -> None:
        self._view = view
        self._pipeline = pipeline
        self._report = report

    def step(self, now_ms: float) -> None:
        """Show what there is now."""
        self._view.show(self._pipeline.snapshot, self._report.current())
