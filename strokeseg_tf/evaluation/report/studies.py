"""The study browser: its controls, and a block of data per study that is read when it is opened."""

import base64
from collections.abc import Sequence
from math import isfinite
from typing import Any

from strokeseg_tf.evaluation.browser import StudyView, fit_views
from strokeseg_tf.evaluation.display import RATER_COLOURS, RUN_COLOURS
from strokeseg_tf.evaluation.report import markup
from strokeseg_tf.evaluation.table import Row, rater_title

TITLE = "Study browser"

_DASHES = ([6, 3], [2, 2], [8, 3, 2, 3])
_CONTROLS = """<div id="browser" hidden>
<div class="tools">
<label>Find <input id="find" type="search" placeholder="part of an id" autocomplete="off"></label>
<label>Order <select id="order"><option value="">as evaluated</option>
<option value="dice">lowest Dice first</option></select></label>
<label>Study <select id="study"></select></label>
<span class="pair"><button type="button" id="previous">Previous</button>
<button type="button" id="next">Next</button></span>
</div>
<fieldset><legend>Contours</legend><div id="drawers" class="tools"></div></fieldset>
<div id="slices" role="group" tabindex="0"
 aria-label="Slices: the arrow keys change the slice, Page Up and Page Down the study"></div>
<label class="slider">Slice <input id="slice" type="range" min="1" value="1" step="1">
<output id="where" for="slice"></output></label>
<p class="note" id="told" role="status"></p>
<div id="of-study" class="scroll" role="region" tabindex="0" aria-label="Scores of the study"></div>
<details id="space"><summary>3-D view of head and lesions</summary>
<div class="tools"><label>Masks of <select id="space-modality"></select></label></div>
<div id="surfaces" role="group"></div>
<p class="note">Surfaces of the masks, smoothed; the head is a rough outline for orientation.
Turn with the mouse or a finger.</p>
</details>
</div>
<noscript><p>The study browser needs JavaScript; the pictures further down do not.</p></noscript>
"""


def browser_section(views: Sequence[StudyView], rows: Sequence[Row], budget_bytes: int) -> str:
    """The section for the studies whose pictures fit into a budget, or nothing without studies.

    Args:
        views: the studies, in the order to show.
        rows: the score table; each study shows its own rows.
        budget_bytes: what the section may take.
    """
    if not views:
        return ""
    scores: dict[str, list[Row]] = {}
    for row in rows:
        scores.setdefault(row["study"], []).append(row)
    words = len(_section(views, len(views), scores, bare=True).encode()) + 200
    parts = sum(len(view.sheets) + len(view.masks) + 1 for view in views)
    # Base64 takes four letters for three bytes, and four for the last one or two.
    kept = fit_views(views, (budget_bytes - words - 4 * parts) * 3 // 4)
    return _section(kept, len(views), scores)


def _section(
    views: Sequence[StudyView], of: int, scores: dict[str, list[Row]], bare: bool = False
) -> str:
    said = f"Slices of {of} studies. "
    if len(views) < of:
        said = f"The first {len(views)} of {of} studies: more would make this file too large. "
    said += (
        "Contours run along the edges of voxels; letters mark the patient's sides (R, L, A, P). A "
        "point pressed in a chart further down opens its study here."
    )
    index = [{"study": view.study, "dice": _lowest(scores.get(view.study, ()))} for view in views]
    blocks = [markup.data_block("browsed", {"drawers": _drawers(views), "studies": index})]
    for at, view in enumerate(views):
        blocks.append(markup.data_block(f"study-{at}", _data(view, scores, bare)))
    return markup.section(TITLE, markup.note(said) + _CONTROLS + "".join(blocks))


def _drawers(views: Sequence[StudyView]) -> list[dict[str, Any]]:
    """Whoever drew a mask: runs in their order, then raters, with one look on the whole page."""
    found = dict.fromkeys(key[:2] for view in views for key in view.masks)
    raters = sorted(name for kind, name in found if kind == "rater")
    drawers = []
    for place, name in enumerate(name for kind, name in found if kind == "run"):
        colour = RUN_COLOURS[place % len(RUN_COLOURS)]
        label = f"run {name}" if name in raters else name
        drawers.append({"kind": "run", "name": name, "label": label, "colour": colour, "dash": []})
    for place, name in enumerate(raters):
        look = place % len(RATER_COLOURS)
        drawers.append({"kind": "rater", "name": name, "label": rater_title(name),
                        "colour": RATER_COLOURS[look], "dash": _DASHES[look]})  # fmt: skip
    return drawers


def _data(view: StudyView, scores: dict[str, list[Row]], bare: bool) -> dict[str, Any]:
    return {
        "study": view.study,
        "group": view.group,
        "shape": view.shape,
        "spacing": view.spacing_mm,
        "directions": view.directions,
        "start": view.start,
        "tile": view.tile,
        "across": view.across,
        "scores": [_scores(row) for row in scores.get(view.study, ())],
        "sheets": {m: "" if bare else _text(data) for m, data in view.sheets.items()},
        "masks": [[*key, "" if bare else _text(data)] for key, data in view.masks.items()],
        "brain": "" if bare else _text(view.brain),
        "brainShape": view.brain_shape,
    }


def _lowest(rows: Sequence[Row]) -> float | None:
    return min((row["dice"] for row in rows if isfinite(row["dice"])), default=None)


def _scores(row: Row) -> list[str]:
    labels = [row["run"], row["modality"].upper(), rater_title(row["rater"])]
    numbers = [(row["dice"], 2), (row["precision"], 2), (row["sensitivity"], 2)]
    numbers += [(row["reference_volume_ml"], 1), (row["predicted_volume_ml"], 1)]
    numbers += [(row["hd95_mm"], 1)]
    return labels + [f"{value:.{digits}f}" if isfinite(value) else "–" for value, digits in numbers]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
