"""The report in a real browser: what a reader sees and does."""

import base64
import io
import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

from strokeseg_tf.evaluation.browser import fit_views, run_lengths, study_view
from strokeseg_tf.evaluation.case import Case
from strokeseg_tf.evaluation.evaluate import evaluate_cases
from strokeseg_tf.evaluation.report import write_report
from strokeseg_tf.evaluation.report.plotly import plotly_block

SHAPE = (9, 64, 48)
SPACING = (6.0, 3.0, 3.0)
AFFINE = np.diag([-3.0, -3.0, 6.0, 1.0])  # x to the left, y to the back, slices to the top
RUNS = {"first": "dual_v1", "second": "unimodal"}
HOSTILE = "<img src=x onerror=alert(1)></script>"


def ball(centre, radius_mm):
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)
    return np.sqrt((((grid - centre) * SPACING) ** 2).sum(-1)) <= radius_mm


def make_case(study, place=(5, 40, 16), group="stroke", miss=False):
    """A bright head with a lesion of 15 mm; `first` is a voxel off, `second` marks two places."""
    head = ball((4, 32, 24), 66)
    lesion = ball(place, 15) if group == "stroke" else np.zeros(SHAPE, bool)
    images = {
        "adc": np.where(lesion, 0.6, 0.9).astype(np.float32) * head,
        "dwi": np.where(lesion, 900, 400).astype(np.float32) * head,
    }
    references = {(r, m): np.roll(lesion, r == "r2", 1) for r in ("r1", "r2") for m in images}
    own = np.roll(lesion, 1, 2) & (not miss)
    predictions = {"first": {m: own for m in images}, "second": {"adc": own | ball((2, 20, 30), 9)}}
    probabilities = {"first": {m: (0.2 + 0.6 * own).astype(np.float32) for m in images}}
    return Case(study, group, SPACING, AFFINE, images, references, predictions, probabilities)


@pytest.fixture(scope="module")
def cases():
    places = [(5, 40, 16), (3, 36, 30), (6, 26, 20), (4, 44, 24)]
    made = [make_case(f"study-{at}", place) for at, place in enumerate(places, 1)]
    made[2] = make_case("study-3", places[2], miss=True)
    return [*made, make_case(HOSTILE, (5, 38, 22)), make_case("healthy", group="control")]


@pytest.fixture(scope="module")
def report(cases, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "evaluation"
    settings = {"phantom": True, "note": HOSTILE, "many": {str(n): n for n in range(40)}}
    evaluate_cases(iter(cases), RUNS, out, settings=settings, overlays=1)
    return out / "report.html"


@pytest.fixture
def page(browser, report):
    browser.open(report)
    browser.until("document.querySelectorAll('#slices canvas').length === 2")
    return browser


def canvas(page, modality):
    """Pixels of a canvas, rgb."""
    data = page.run(f"document.getElementById('canvas-{modality}').toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])))
    return np.asarray(picture.convert("RGB")).astype(int)


def coloured(pixels):
    """Where a picture is not grey."""
    return np.ptp(pixels, axis=-1) > 40


def decoded(data, shape):
    """What the page makes of run lengths, written independently: a byte at a time."""
    lengths, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            lengths.append(value)
            value = shift = 0
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(shape)


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_hold_every_voxel(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 3))
    mask = rng.random(shape) < rng.choice([0, 0.001, 0.5, 0.999, 1])
    assert (decoded(run_lengths(mask), shape) == mask).all()


def test_run_lengths_of_known_masks():
    assert run_lengths(np.array([0, 0, 1, 1, 1, 0])) == bytes([2, 3, 1])
    assert run_lengths(np.array([1, 0])) == bytes([0, 1, 1])
    assert run_lengths(np.zeros(300)) == bytes([0b10101100, 0b10])  # 300, the example of LEB128


def test_a_view_keeps_masks_whole_and_starts_at_the_lesion(cases):
    view = study_view(cases[0])
    for (kind, name, modality), data in view.masks.items():
        masks = cases[0].references if kind == "rater" else cases[0].predictions[name]
        mask = masks[name, modality] if kind == "rater" else masks[modality]
        assert decoded(data, view.shape).sum() == mask.sum()
    assert view.start == 5 and view.directions == "SPL" and len(view.masks) == 4 + 3
    assert view.spacing_mm == SPACING


def test_a_control_starts_in_the_middle_unless_a_run_marks_something(cases):
    bare = replace(cases[-1], predictions={}, probabilities={})
    assert study_view(bare).start == SHAPE[0] // 2
    assert study_view(cases[-1]).start == 2  # of the false positive


def test_a_study_without_an_image_is_no_study_to_browse(cases):
    with pytest.raises(ValueError, match="must have an image. Received study-1"):
        study_view(replace(cases[0], images={}))


def test_pictures_give_way_to_a_budget(cases):
    noise = np.random.default_rng(0).normal(300, 90, SHAPE).astype(np.float32)
    views = [study_view(replace(case, images={"dwi": noise})) for case in cases]
    masks = sum(len(part) for view in views for part in (*view.masks.values(), view.brain))
    whole = sum(view.size for view in views)
    assert fit_views(views, whole) == views
    less = fit_views(views, (whole + masks) // 2)
    assert len(less) == len(views) and sum(view.size for view in less) <= (whole + masks) // 2
    assert [view.masks for view in less] == [view.masks for view in views]
    few = fit_views(views, views[0].size // 2)
    assert len(few) < len(views) and few[0].study == views[0].study


def test_the_page_keeps_to_its_budget_and_says_what_it_left_out(report, cases, tmp_path):
    summary = json.loads((report.parent / "summary.json").read_text())
    content = {"summary": summary, "rows": [], "figures": [], "settings": {}}
    views = [study_view(case) for case in cases]
    bare = write_report(tmp_path, **content).stat().st_size
    whole = write_report(tmp_path, **content, views=views).stat().st_size
    budget = bare + plotly_size() + (whole - bare - plotly_size()) // 2
    path = write_report(tmp_path, **content, views=views, budget_bytes=budget)
    assert path.stat().st_size <= budget < whole
    assert re.search(r"The first \d of 6 studies", path.read_text(encoding="utf-8"))


def plotly_size():
    return len(plotly_block())


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LPI", "ASL", "PIR", "SRA", "IRP", "RSA"])
def test_directions_say_where_a_lesion_lies_whatever_the_file_order(axes):
    """A lesion at the right, front and top of the volume is found there again."""
    codes = nibabel.orientations.axcodes2ornt(axes).astype(int)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for file_axis, (world, sign) in enumerate(codes):
        affine[world, file_axis] = sign
    mask = np.zeros((12, 10, 8), bool)  # in file order: x, y, slice
    ends = [slice(-3, None) if sign > 0 else slice(0, 3) for _, sign in codes]
    mask[tuple(ends)] = True
    mask = np.moveaxis(mask, 2, 0)
    images = {"dwi": np.where(mask, 3, 1).astype(np.float32)}
    view = study_view(Case("s", "stroke", (1, 1, 1), affine, images, {("r1", "dwi"): mask}, {}))
    place = np.argwhere(decoded(view.masks["rater", "r1", "dwi"], view.shape)).mean(0) + 0.5
    share = dict(zip(view.directions, place / view.shape, strict=True))
    opposite = dict(zip("RASLPI", "LPIRAS", strict=True))
    for end in "RAS":
        assert share.get(end, 1 - share.get(opposite[end], 1)) > 0.6


def test_nan_and_infinity_become_black_and_white(cases):
    image = cases[0].images["dwi"].copy()
    image[4, :32], image[4, 32:] = np.nan, np.inf  # right and left
    view = study_view(replace(cases[0], images={"dwi": image}))
    sheet = np.asarray(Image.open(io.BytesIO(view.sheets["dwi"])).convert("L"))
    width, height = view.tile
    row, column = divmod(4, view.across)
    tile = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
    assert tile[:, : width // 3].max() < 30 and tile[:, -width // 3 :].min() > 225


def test_nothing_is_complained_about_and_nothing_is_asked_of_a_network(page):
    charts = page.run("Object.keys(charts)")
    assert set(charts) == {"dice", "bland_altman_dice", "agreement", "volumes", "lesion_size",
                           "calibration", "threshold"}  # fmt: skip
    for chart in charts:
        figure = f"document.querySelector('figure[data-chart={chart}]')"
        page.run(f"{figure}.scrollIntoView()")
        page.until(f"{figure}.querySelector('svg.main-svg') !== null")
    saved = "Plotly.toImage(document.querySelector('.plot'), {format: 'png'}).then((p) => p.length)"
    assert page.run(saved) > 5000
    assert page.complaints() == []


def test_the_slider_moves_the_slice_and_arrow_keys_move_the_slider(page):
    assert page.run("document.getElementById('where').textContent") == "6 of 9"
    before = canvas(page, "adc")
    page.run("document.getElementById('slice').focus()")
    page.press("ArrowRight")
    assert page.run("document.getElementById('where').textContent") == "7 of 9"
    assert (canvas(page, "adc") != before).any()
    page.run("document.getElementById('slices').focus()")
    for _ in range(3):
        page.press("ArrowLeft")
    assert page.run("document.getElementById('slice').value") == "4"
    page.press("PageDown")
    page.until("browser.open.study === 'study-2'")
    page.press("PageUp")
    page.until("browser.open.study === 'study-1'")


def test_contours_lie_on_the_lesion_and_toggle(page):
    boxes = "[...document.querySelectorAll('#drawers label')].map((label) => label.textContent)"
    assert page.run(boxes) == ["first", "second", "R1", "R2"]
    with_all = coloured(canvas(page, "adc"))
    for place in (1, 2, 4):
        page.click(f"#drawers label:nth-child({place}) input")
    alone = coloured(canvas(page, "adc"))
    assert 0 < alone.sum() < with_all.sum()
    # R1's lesion in the cropped slice, seen from outside: x runs right, y down.
    rows, columns = np.nonzero(alone)
    view = study_view(make_case("study-1"))
    mask = decoded(view.masks["rater", "r1", "adc"], view.shape)[view.start]
    y, x = np.nonzero(mask)
    scale = np.array(alone.shape) / mask.shape
    found = np.array([rows.min(), rows.max(), columns.min(), columns.max()])
    wanted = np.array([y.min(), y.max() + 1, x.min(), x.max() + 1]) * np.repeat(scale, 2)
    assert np.abs(found - wanted).max() < 3
    page.click("#drawers label:nth-child(3) input")
    assert not coloured(canvas(page, "adc")).any()
    assert "no contours" in page.run("document.getElementById('canvas-adc').ariaLabel")


def test_a_study_is_found_by_a_part_of_its_id_and_by_its_dice(page):
    def options():
        return page.run("[...document.getElementById('study').options].map((o) => o.textContent)")

    assert len(options()) == 6
    page.run("document.getElementById('find').focus()")
    page.send("Input.insertText", text="DY-3")
    page.until("browser.open.study === 'study-3'")
    assert options() == ["study-3 · Dice 0.00"]
    assert "Nothing marked by: first on ADC" in page.run("byId('told').textContent")
    page.run("byId('find').value = 'nobody'; byId('find').dispatchEvent(new Event('input'))")
    assert page.run("byId('told').textContent") == "No study's id has that part."
    page.run("byId('find').value = ''; byId('find').dispatchEvent(new Event('input'))")
    page.run("byId('order').value = 'dice'; byId('order').dispatchEvent(new Event('change'))")
    dice = [float(text.rpartition(" ")[2]) for text in options()]
    assert dice == sorted(dice)


def test_a_point_pressed_in_a_chart_opens_its_study(page):
    page.run("document.querySelector('#dice').scrollIntoView()")
    page.until("document.querySelector('#dice .plot')?._fullData !== undefined")
    page.run("byId('find').value = 'study-1'; byId('find').dispatchEvent(new Event('input'))")
    page.run(
        "document.querySelector('#dice .plot').emit('plotly_click', {points: [{customdata: "
        "document.querySelector('#dice .plot').data[0].customdata[1]}]})"
    )
    page.until("browser.open.study === 'study-2'")
    assert page.run("document.activeElement.id") == "slices"


def test_a_hostile_name_stays_text(page):
    page.run("byId('study').value = '4'; byId('study').dispatchEvent(new Event('change'))")
    page.until(f"browser.open.study === {json.dumps(HOSTILE)}")
    assert page.run("document.querySelectorAll('img[src=\"x\"]').length") == 0
    assert HOSTILE in page.run("byId('told').textContent")
    page.run("document.querySelector('#dice').scrollIntoView()")
    page.until("document.querySelector('#dice svg.main-svg') !== null")
    assert page.complaints() == []


def test_sorting_sorts_and_says_so(page):
    head = "document.querySelector('table.sortable').tHead.rows[0]"
    at = page.run(f"[...{head}.cells].findIndex((cell) => cell.textContent === 'dice')")
    column = (
        f"[...document.querySelector('table.sortable').tBodies[0].rows].map("
        f"(row) => row.cells[{at}].dataset.value).filter(Boolean).map(Number)"
    )
    page.run(f"{head}.cells[{at}].firstElementChild.focus()")
    page.press("Enter")
    rising = page.run(column)
    assert rising == sorted(rising) and len(set(rising)) > 2
    assert page.run(f"{head}.cells[{at}].ariaSort") == "ascending"
    page.press(" ")
    assert page.run(column) == rising[::-1]
    assert page.run("byId('sorted').textContent") == "Sorted by dice, descending."


def test_the_view_in_space_shows_the_lesions_where_they_are(page):
    page.click("#space summary")
    page.until("byId('surfaces').data !== undefined")
    names = page.run("byId('surfaces').data.map(({name}) => name)")
    assert names == ["head", "first", "second", "R1", "R2"]
    # Enclosed volume (divergence theorem) and centre of R1's surface, in mm.
    volume, *centre = page.run(
        """(() => { const {x, y, z, i, j, k} = byId('surfaces').data[3];
        const p = (a) => [x[a], y[a], z[a]]; let volume = 0;
        i.forEach((_, t) => { const [a, b, c] = [p(i[t]), p(j[t]), p(k[t])];
          volume += a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2])
            + a[2] * (b[0] * c[1] - b[1] * c[0]); });
        const mean = (v) => v.reduce((s, w) => s + w, 0) / v.length;
        return [volume / 6, mean(x), mean(y), mean(z)]; })()"""
    )
    case = make_case("study-1")
    view = study_view(case)
    mask = decoded(view.masks["rater", "r1", "adc"], view.shape)
    assert abs(volume) == pytest.approx(mask.sum() * np.prod(SPACING), rel=0.12)
    z, y, x = np.argwhere(mask).mean(0) + 0.5
    # Towards right, anterior, superior: columns run left and rows run back.
    assert centre == pytest.approx([-x * 3, -y * 3, z * 6], abs=1.5)
    saved = "Plotly.toImage(byId('surfaces'), {format: 'png'}).then((picture) => picture.length)"
    assert page.run(saved) > 5000
    page.click("#drawers label:nth-child(3) input")
    page.until("byId('surfaces').data.length === 4")
    assert page.complaints() == []


def test_a_surface_is_closed(page):
    """Every edge belongs to two triangles, that run along it in opposite directions."""
    edges = page.run(
        """(() => { const mask = new Uint8Array(60); [21, 22, 26, 41].forEach((v) => mask[v] = 1);
        const seen = {}; for (const [a, b, c] of surfaceOf(mask, [3, 4, 5], 2).triangles) {
          for (const [s, t] of [[a, b], [b, c], [c, a]]) {
            seen[`${s} ${t}`] = (seen[`${s} ${t}`] ?? 0) + 1; } } return seen; })()"""
    )
    assert edges and all(edges[" ".join(edge.split()[::-1])] == n for edge, n in edges.items())


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "phone"), [(360, True), (1280, False)])
def test_the_page_fits_its_window_in_light_and_dark(browser, report, width, phone, dark):
    browser.open(report, width, 740, dark=dark, phone=phone)
    browser.until("document.querySelectorAll('#slices canvas').length === 2")
    browser.run("document.querySelector('#dice').scrollIntoView()")
    browser.until("document.querySelector('#dice svg.main-svg') !== null")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("byId('slices').offsetHeight") < 0.8 * 740  # the slider is seen as well
    page = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
    assert (np.median(page) < 60) == dark
    ink = browser.run("document.querySelector('#dice .plot').layout.font.color")
    assert (int(ink[1:3], 16) > 128) == dark
    assert browser.complaints() == []


def test_everything_can_be_reached_by_keyboard(page):
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    reached = set()
    for _ in range(60):
        page.press("Tab")
        reached.add(page.run("document.activeElement.id || document.activeElement.textContent"))
        page.press("Tab")
        reached.add(page.run("document.activeElement.id || document.activeElement.textContent"))
    wanted = {"find", "order", "study", "previous", "next", "slices", "slice", "hd95 (mm)"}
    assert wanted - {name.lower() for name in reached} == set()


def test_the_print_has_every_picture_and_no_chart(page):
    page.run("document.querySelector('#dice').scrollIntoView()")
    page.until("document.querySelector('#dice svg.main-svg') !== null")
    page.send("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('img')].every((picture) => picture.offsetHeight > 50)"
    assert page.run(shown)
    assert page.run("document.querySelector('.plot').offsetHeight") == 0
    page.send("Emulation.setEmulatedMedia", media="")
    document = page.print()
    assert document.startswith(b"%PDF") and len(document) > 20_000
