"""The dashboard and the report as Weights & Biases has them: a saved view of a project, and a report."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from d2v import metrics
from d2v.errors import UserError, how_to_install
from d2v.monitoring.dashboard.dashboard_sections import (
    COMPARED,
    LOGARITHMIC,
    MEDIA_SECTION,
    SECTIONS,
    media_keys,
    pattern,
)
from d2v.monitoring.metric_panels import Panel

NAME = "d2v"
_STEP = "trainer/global_step"
"""Optimizer steps, as Lightning logs them. W&B's own step counts how often something was logged."""
_TEXT = (
    "Choose the runs in the table below: one a recipe, or several that share a group (init_args.group of the logger); "
    "then group the table by it. Compare probes, not losses: where recipes have other targets, their losses mean other "
    "things. A difference that is smaller than that between seeds of one recipe is none."
)


def workspace(entity: str, project: str, media: Sequence[str]) -> Any:
    """A ``wandb_workspaces.workspaces.Workspace`` with the sections; nothing is sent.

    Args:
        entity: User or team.
        project: Of the runs.
        media: The names of the encoders of joint runs.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    views, reports = _packages()
    sections = []
    for name, panels in SECTIONS.items():
        plots = [_plot(reports, panel) for panel in panels]
        sections.append(views.Section(name=name, panels=plots, is_open=True))
    browsers = []
    for metric, title in metrics.media_titles().items():
        browsers.append(reports.MediaBrowser(title=title, media_keys=media_keys(metric, media), num_columns=1))
    layout = views.SectionLayoutSettings(columns=2, rows=3)
    sections.append(views.Section(name=MEDIA_SECTION, panels=browsers, is_open=True, layout_settings=layout))
    settings = views.WorkspaceSettings(x_axis=_STEP)
    return views.Workspace(entity=entity, project=project, name=NAME, sections=sections, settings=settings)


def report(entity: str, project: str) -> Any:
    """A ``wandb_workspaces.reports.v2.Report`` that compares the recipes of a project's runs; nothing is sent.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    _, reports = _packages()
    runs = reports.Runset(entity=entity, project=project, name="Recipes")
    differences = reports.RunComparer(diff_only="split", layout=reports.Layout(w=24, h=12))
    plots = []
    for number, panel in enumerate(COMPARED):
        plot = _plot(reports, panel)
        plot.layout = reports.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
        plots.append(plot)
    blocks = [
        reports.P(_TEXT),
        reports.H2("What differs"),
        reports.PanelGrid(runsets=[runs], panels=[differences]),
        reports.H2("What was learned"),
        reports.PanelGrid(runsets=[runs], panels=plots),
        reports.H2("What follows"),
        reports.P("..."),
    ]
    return reports.Report(entity=entity, project=project, title="Recipes compared", blocks=blocks, width="fluid")


def push(entity: str, project: str, media: Sequence[str]) -> list[str]:
    """Save both to the project, each time as new ones.

    Returns:
        Their addresses.

    Raises:
        UserError: wandb-workspaces is not installed, there is no such project, or the server refuses.
    """
    made = [report(entity, project), workspace(entity, project, media)]  # the first looks whether the project is there
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        wandb.Api()  # says why a login is refused, which a report's own does not
        return [each.save().url for each in made]
    except (wandb.errors.Error, WandbApiFailedError, ValueError) as error:
        raise UserError(f"--push {entity}/{project}: W&B refuses it: {error}") from error


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as views
    except ModuleNotFoundError as error:
        raise UserError(
            f"d2v dashboard --push needs {error.name}, which is not installed: {how_to_install('dashboard')}"
        ) from error
    return views, reports


def _plot(reports: ModuleType, panel: Panel) -> Any:
    is_logarithmic = panel in LOGARITHMIC
    lowest = 0.0 if panel.from_zero and not is_logarithmic else None
    return reports.LinePlot(
        title=panel.title,
        x=_STEP,
        metric_regex=pattern(panel),
        title_y=panel.unit,
        range_y=(lowest, None),
        log_y=is_logarithmic or None,
    )
