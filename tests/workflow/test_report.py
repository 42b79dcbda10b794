"""The page about a run: in the workflow, in a real browser, and Snakemake's own report."""

import html
import json
import re
import shutil
import subprocess
import zipfile

import pandas as pd
import pytest

from tests.helpers import CI, jobs, run_module, snakemake

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Run in the page after it has loaded: click, choose and type as a reader would, and say what came of it.
CHECK = """<script>
window.addEventListener("load", async () => {
  const images = [...document.images];
  images.forEach(image => image.loading = "eager");
  await Promise.all(images.map(image => image.decode().catch(() => 0)));
  const said = {images: images.length, loaded: images.filter(image => image.naturalWidth > 0).length};
  const requests = performance.getEntriesByType("resource").map(entry => entry.name);
  said.requests = requests.filter(name => !name.startsWith("data:"));
  const table = document.querySelector("#scores").parentElement.querySelector("table");
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
  table.querySelectorAll("th button")[1].click(); said.rising = column();
  table.querySelectorAll("th button")[1].click(); said.falling = column();
  const shown = () => [...document.querySelectorAll('[data-photos="oof"] figure')].filter(f => !f.hidden);
  const select = document.querySelector('select[data-gallery="oof"]');
  const input = document.querySelector('[data-filter="oof"]');
  const choose = value => { select.value = value; select.dispatchEvent(new Event("change")); };
  choose("distance"); said.distances = shown().map(f => Number(f.dataset.distance));
  choose("score"); said.scores = shown().map(f => Number(f.dataset.score));
  input.value = shown()[1].dataset.id.toUpperCase(); input.dispatchEvent(new Event("input"));
  said.left = shown().length;
  const controls = [...document.querySelectorAll("a[href], button, select, input, [tabindex]")];
  said.unnamed = controls.filter(c => !(c.textContent.trim() || c.labels?.length || c.ariaLabel)).length;
  said.unexplained = images.filter(image => !image.alt).length;
  said.injected = document.querySelectorAll("[data-injected]").length;
  said.too_wide = document.documentElement.scrollWidth - innerWidth;
  document.title = JSON.stringify(said);
});
</script>"""


@pytest.fixture(scope="module")
def page(finished):
    """The report of the finished run; its path."""
    text = snakemake(finished, "report", *CI)
    assert {"analyse_errors", "write_report"} <= jobs(text).keys() and "train" not in jobs(text)
    return finished / "results" / "ci" / "report.html"


def test_the_page_needs_no_other_file(page):
    text = page.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"url\((?!#|data:)", text) and "@import" not in text
    for heading in ("Which file to upload", "Scores", "Pseudo labels", "Trainings", "Configuration"):
        assert f">{heading}</h" in text
    assert "models.hourglass.backbone" in text and "SHA-256 of submission.csv" in text


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [1200, 400])
def test_in_a_browser(page, finished, tmp_path, width):
    """No request, no error, every picture; tables sort, galleries sort and filter; settings stay text."""
    results = finished / "results" / "ci"
    run = tmp_path / "<i data-injected>"
    shutil.copytree(results, run)
    config = json.loads((run / "config.json").read_text())
    assert config["run"] == "ci" and config["models"]["hourglass"]["backbone"] == "hourglass"
    config["demo"]["seed"] = "</script><script data-injected>alert(1)</script>"
    (run / "config.json").write_text(json.dumps(config))
    run_module("carpose.report", run, "--photos", 3, "--output", tmp_path / "report.html")
    copy = tmp_path / "checked.html"
    copy.write_text((tmp_path / "report.html").read_text().replace("</body>", CHECK + "</body>"))
    # A phone's width: Chromium's own window is at least 500 pixels wide, a frame is not.
    frame = tmp_path / "frame.html"
    script = "onload = () => setInterval(() => document.title = frames[0].document.title, 50)"
    frame.write_text(
        f'<iframe src="checked.html" width="{width}" height="900"></iframe><script>{script}</script>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--allow-file-access-from-files", "--enable-logging=stderr"]
    # The clock of the page runs ahead of pictures that are still decoded, on a busy machine by more.
    for milliseconds in (20_000, 200_000, 2_000_000):
        command = [BROWSER, *options, f"--virtual-time-budget={milliseconds}", "--dump-dom", frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
        title = html.unescape(re.search("<title>(.*?)</title>", done.stdout, re.S)[1])
        if title.startswith("{"):
            break
    said = json.loads(title)
    assert said["images"] == said["loaded"] == 6 and said["requests"] == []
    rising, falling = ([float(text.split()[0]) for text in said[name]] for name in ("rising", "falling"))
    assert rising == sorted(rising) and falling == rising[::-1] and len(rising) == 5
    assert said["distances"] == sorted(said["distances"], reverse=True)
    assert said["scores"] == sorted(said["scores"]) and said["left"] == 1
    assert said["unnamed"] == said["unexplained"] == said["injected"] == 0
    assert said["too_wide"] <= 0
    assert "CONSOLE" not in done.stderr, done.stderr


def test_two_runs_beside_each_other(page, finished, tmp_path):
    """The run, and a copy of it whose configuration says something else."""
    run, copy, picture = page.parent, tmp_path / "copy", tmp_path / "losses.png"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("cache", "state.pt"))
    config = json.loads((copy / "config.json").read_text())
    config["models"]["dla34"]["lr"] = 0.5
    (copy / "config.json").write_text(json.dumps(config))
    done = run_module("carpose.compare", run, copy, "--samples", "5", "--picture", picture, cwd=finished)
    assert re.search(r"models\.dla34\.lr +0\.01 +0\.5\n", done.stdout), done.stdout
    score = pd.read_csv(run / "evaluation.csv").set_index("name")["oof_mAP"]["fused"]
    row = rf"fused +{score:.4f} +{score:.4f} +0\.0000 +\[\+0\.0000, \+0\.0000\]"
    assert re.search(row, done.stdout), done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_snakemakes_own_report(page, finished):
    snakemake(finished, "submission", "report", "--report", "report.zip", *CI)
    names = zipfile.ZipFile(finished / "report.zip").namelist()
    for name in ("evaluation.csv", "predictions.png", "history.png", "report.html"):
        assert any(entry.endswith(name) for entry in names), name


def test_a_run_that_is_not_finished(tmp_path):
    done = run_module("carpose.report", tmp_path, check=False)
    assert (
        done.returncode == 2
        and "has no evaluation.csv; finish the run with the command that started it" in done.stderr
    )
    assert not (tmp_path / "report.html").exists()
