"""The page of a search in a real browser: what a reader sees and does."""

import csv
import re

import numpy as np
import pytest

from strokeseg_tf.config import SMALL
from tuning.outcome import conclude
from tuning.plan import Plan, open_search
from tuning.results import trial_folder, write_result
from tuning.search_space import default_space, searched_config

PLAN = Plan(searched_config(SMALL), SMALL, default_space())
EPOCHS = 12
HOSTILE = "<img src=x onerror=alert(1)></script>"


def result(trial, score, rng, status="complete", reason=None, **values):
    """A trial as `tuning.trial.run_trial` writes it; its curve rises to the score."""
    epochs = EPOCHS // 2 if status == "pruned" else EPOCHS
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 3)
    curve = list(score * rise / rise[-1] * rng.uniform(0.8, 1, epochs)) if score else []
    curve = [*curve[:-1], score] if score else []
    number = int(trial.split("-")[1]) if "-" in trial else 0
    training = {"run": f"seed{number}", "end": status, "score": score, "curve": curve}
    training |= {"dice": {"adc": score, "dwi": score}, "seconds": 50.0}
    return {
        "trial": trial, "status": status, "score": score, "sd": None, "reason": reason,
        "dice": {"adc": 0.9 * score, "dwi": 1.1 * score} if score else {}, "values": values,
        "epochs": epochs, "seconds": 55.0, "trainings": [training] if score else [],
    }  # fmt: skip


def search_results():
    """A default of 0.3, 20 trials that are better the nearer gamma is to 1, and their repeats."""
    rng = np.random.default_rng(0)
    results = [result(f"default-{n}", 0.3 + 0.01 * n, rng) for n in range(PLAN.repeats)]
    for number in range(20):
        values = {
            "alpha": float(rng.uniform(0.05, 0.95)),
            "gamma": float(rng.uniform(0, 5)),
            "lesion_weight": float(np.exp(rng.uniform(0, 3))),
            "background_weight": float(np.exp(rng.uniform(-2.3, 0.7))),
        }
        score = float(np.clip(0.45 - 0.07 * abs(values["gamma"] - 1) + rng.normal(0, 0.02), 0, 1))
        status, reason = ("pruned", "below the median") if score < 0.25 else ("complete", None)
        if number == 7:
            score, status, reason = None, "failed", f"the loss became nan {HOSTILE}"
        results.append(result(f"{number:02}", score, rng, status, reason, **values))
    done = [r for r in results if r["status"] == "complete" and "-" not in r["trial"]]
    for best in sorted(done, key=lambda r: -r["score"])[: PLAN.finalists]:
        for number in range(1, PLAN.repeats):
            name, score = f"{best['trial']}-{number}", best["score"] - float(rng.uniform(0, 0.06))
            results.append(result(name, score, rng, **best["values"]))
    return results


@pytest.fixture(scope="module")
def search(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "search"
    open_search(folder, PLAN.content(shards))
    for one in search_results():
        trial_folder(folder, one["trial"]).mkdir()
        write_result(folder, one)
    conclude(folder, PLAN, 20)
    return folder


@pytest.fixture
def page(browser, search):
    browser.open(search / "report.html")
    for chart in CHARTS:
        browser.run(f"document.querySelector('{figure(chart)}').scrollIntoView()")
        browser.until(f"document.querySelector('{figure(chart)} svg.main-svg') !== null")
    return browser


CHARTS = ("trials", "coordinates", "importance", "curves", "heads")


def figure(chart):
    return f"figure[data-chart={chart}]"


def test_nothing_is_complained_about_and_nothing_is_asked_of_a_network(page):
    assert set(page.run("Object.keys(charts)")) == set(CHARTS)
    assert page.complaints() == []
    # What stands in a result stays text.
    assert page.run("document.querySelectorAll('img[src=\"x\"]').length") == 0
    assert HOSTILE in page.run("document.querySelector('table').textContent")


@pytest.mark.slow
def test_a_point_says_its_trial_when_hovered_and_pressing_it_does_no_harm(page):
    plot = f"document.querySelector('{figure('trials')} .plot')"
    place = f"{plot}.querySelector('.points path')"
    page.run(f"{place}.scrollIntoView({{block: 'center'}})")
    box = page.run(f"(() => {{ const b = {place}.getBoundingClientRect(); "
                   "return [b.x + b.width / 2, b.y + b.height / 2]; })()")  # fmt: skip
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                  clickCount=1)  # fmt: skip
    page.until(f"{plot}.querySelector('.hovertext') !== null")
    words = page.run(f"{plot}.querySelector('.hovertext').textContent")
    assert re.search(r"trial \d+: alpha .+ gamma", words)
    assert page.complaints() == []


@pytest.mark.slow
def test_links_lead_to_their_sections(page):
    links = page.run("[...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href'))")
    assert len(links) == 8
    page.click("nav a:last-of-type")
    page.until(f"location.hash === '{links[-1]}'")
    assert page.run("document.querySelector(location.hash) !== null")


@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 640, 1280])
def test_the_page_fits_its_window_and_so_do_its_plots(browser, search, width):
    browser.open(search / "report.html", width=width)
    for chart in CHARTS:
        browser.run(f"document.querySelector('{figure(chart)}').scrollIntoView()")
        browser.until(f"document.querySelector('{figure(chart)} svg.main-svg') !== null")
        plot = f"document.querySelector('{figure(chart)} .plot').getBoundingClientRect()"
        browser.until(f"{plot}.right <= {width} && {plot}.width > {0.8 * width}")
    assert browser.run("document.documentElement.scrollWidth") == width


def test_the_table_puts_finalists_first_and_the_verdict_counts_their_repeats(search):
    with open(search / "trials.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    repeated = [row["repeated"] for row in rows]
    assert repeated[:3] == sorted(repeated[:3], reverse=True) and not any(repeated[3:])
    page = (search / "report.html").read_text(encoding="utf-8")
    best = float(repeated[0])
    assert f"The best finalist has {best:.3f}, the default 0.315" in page
    assert "by luck alone in " in page and "Of 3 finalists" in page
    assert f"the winner is trial {rows[0]['trial']}" in page
