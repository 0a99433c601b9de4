"""The local page: who may ask it, that what it starts lives on, and a whole run by clicks in Chromium."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from urllib.parse import quote, urlencode

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from browser import Browser
from scansynth.app import jobs, look
from scansynth.app.pages import Pages
from scansynth.app.server import Server, safe_name
from scansynth.data.phantom import write_phantom_cohort
from scansynth.errors import InputError
from scansynth.training.train import train

HOSTILE = '"><img src=x onerror=document.title=666>&amp; run'
LACKING = ("sub-006", "sub-007", "sub-008")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def server(root):
    with Server(root, Pages(root), root / jobs.FOLDER / jobs.UPLOADS) as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join(10)


class Client:
    """Asks as a browser would that has the cookie, and as others would."""

    def __init__(self, server):
        self.server = server

    def __call__(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        sent = {"Cookie": f"{self.server.cookie}={self.server.token}", "Origin": self.server.origin}
        if isinstance(body, dict):
            body, sent["Content-Type"] = json.dumps(body), "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content


@pytest.fixture
def ask(server):
    return Client(server)


def test_only_this_machine_is_listened_to(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_token_opens_the_page_and_leaves_the_address(server, ask):
    answer, content = ask("GET", f"/?token={server.token}", Cookie=None, Origin=None)
    assert (answer.status, answer.headers["Location"], content) == (303, "/", b"")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    answer, content = ask("GET", "/", Cookie=cookie.partition(";")[0], Origin=None)
    assert answer.status == 200
    assert b"not for diagnosis" in content
    assert server.token.encode() not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": None}, {"Cookie": "scansynth=x"}, {"Host": "evil.example"}, {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
    ],
)  # fmt: skip
def test_strangers_get_nothing(root, ask, headers):
    (root / "secret.html").write_text("secret")
    for path in ("/", "/file/secret.html", "/download/secret.html", "/data?at="):
        answer, content = ask("GET", path, **headers)
        assert answer.status == 403, path
        assert b"secret" not in content


def test_what_changes_something_comes_from_the_page_alone(root, ask):
    for origin in (None, "null", "http://evil.example", "http://127.0.0.1:1"):
        assert ask("POST", "/stop", {"id": "x"}, Origin=origin)[0].status == 403
        assert ask("PUT", f"/upload?group={'a' * 16}&slot=T1w&name=x.nii", b"x", Origin=origin)[0].status == 403
    answer, content = ask("POST", "/stop", '{"id": "x"}', Content_Type="text/plain")
    assert answer.status == 400
    assert b"ask in JSON" in content
    assert not (root / jobs.FOLDER).exists()


def test_nothing_outside_the_folder_is_there(root, ask, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret.txt")
    for name in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", quote(str(tmp_path / "secret.txt")), "link"):
        for path in (f"/file/{name}", f"/download/{name}", f"/small?at={name}", f"/?at={name}", f"/view?at={name}"):
            answer, content = ask("GET", path)
            assert answer.status in (400, 404), path
            assert b"secret\n" not in content
            assert content != b"secret"
    body = {"at": "", "targets": ["T2w"], "hours": 1, "output": "../elsewhere", "plan": True}
    assert ask("POST", "/start", body)[0].status == 400
    assert jobs.jobs(root) == []


def test_pages_of_the_folder_are_nobody_here(root, ask):
    (root / "page.html").write_text("<script>fetch('/stop', {method: 'POST'})</script>")
    answer, _ = ask("GET", "/file/page.html")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in answer.headers["Content-Security-Policy"]
    answer, _ = ask("GET", "/")
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_files_that_are_dropped_have_safe_names(root, ask, server):
    group = "0123456789abcdef"
    names = {"../../evil.nii.gz": "evil.nii.gz", "a b<c>.nii": "a_b_c_.nii", ".hidden.nii": "hidden.nii",
             "..": "file", "x" * 300 + ".nii.gz": None, "C:\\scans\\t1.nii": "t1.nii"}  # fmt: skip
    for name, safe in names.items():
        answer, content = ask("PUT", f"/upload?{urlencode({'group': group, 'slot': 'T1w', 'name': name})}", b"scan")
        assert answer.status == 200, content
        stored = json.loads(content)["name"]
        assert stored == (safe or stored)
        assert [one.name for one in (server.uploads / group / "T1w").iterdir()] == [stored]  # dropped again
        assert stored.endswith((".nii", ".nii.gz", "file"))
    for wrong in ({"group": "../x", "slot": "T1w"}, {"group": group, "slot": "../T1w"}, {"group": group}):
        assert ask("PUT", f"/upload?{urlencode({**wrong, 'name': 'x.nii'})}", b"scan")[0].status == 400
    answer, _ = ask("PUT", f"/upload?group={group}&slot=T2w&name=x.nii", None, Content_Length=str(10 << 30))
    assert answer.status == 400
    assert sorted(path.name for path in server.uploads.rglob("*") if path.is_dir()) == [group, "T1w"]
    assert safe_name("") == "file"


def test_wrong_requests_are_told_in_a_line(root, ask):
    for body in (b"", b"[1]", b"{", b"[" * 100_000):
        answer, content = ask("POST", "/start", body, Content_Type="application/json")
        assert answer.status == 400
        assert "error" in json.loads(content)
    for path in (
        "/none",
        "/data?at=none",
        "/run?at=",
        "/work?id=../x",
        "/work?id=",
        "/translate?run=",
        "/%00",
        "/file/",
    ):
        answer, content = ask("GET", path)
        assert answer.status in (400, 404), path
        assert b"This did not work" in content
    assert ask("POST", "/none", {})[0].status == 404


def test_a_hostile_name_is_a_text(root, ask):
    folder = root / HOSTILE
    write_phantom_cohort(folder, 1, ("T1w",), layout="BIDS", shape=(32, 32, 16), spacing=6.0)
    (folder / f"{HOSTILE}.nii.gz").write_bytes(b"x")
    for path in ("/", f"/data?at={quote(HOSTILE)}", f"/?at={quote(HOSTILE)}"):
        answer, content = ask("GET", path)
        assert answer.status == 200, content
        assert b"<img src=x" not in content
    assert b"onerror" in content


def test_what_is_in_a_folder_is_told(root, cohort, tiny):
    write_phantom_cohort(root / "scans", 2, ("T1w", "T2w"), layout="BIDS", shape=(32, 32, 16), spacing=6.0)
    train(tiny(steps=1), cohort, root / "runs" / "one", device=torch.device("cpu"))
    (root / "empty").mkdir()
    (root / "a cohort").mkdir()
    (root / "a cohort" / "cohort.json").write_text("{}")
    kinds = {one.path.name: one.kind for one in look.entries(root)}
    assert kinds == {"a cohort": "cohort", "empty": "folder", "runs": "folder", "scans": "data"}
    scan = next((root / "scans").rglob("*T1w.nii.gz"))
    scansynth.load(root / "runs" / "one", "cpu").translate({"T1w": scan}).write(root / "made" / "t2.nii.gz")
    assert look.kind_of(root / "made") == "made"
    assert look.images_made(root) == [root / "made" / "t2.nii.gz"]
    assert look.kind_of(root / "runs" / "one") == "run"


def test_a_small_picture_shows_the_scan(root, ask):
    write_phantom_cohort(root, 1, ("T1w",), layout="table", shape=(32, 32, 16), spacing=6.0)
    answer, content = ask("GET", "/small?at=phantom001_T1w.nii.gz")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    from io import BytesIO

    from PIL import Image

    grey = np.asarray(Image.open(BytesIO(content)).convert("L"))
    assert grey.shape[0] == look.HEIGHT
    assert 0.2 < (grey > 30).mean() < 0.9
    (root / "bad.nii.gz").write_bytes(b"x")
    assert ask("GET", "/small?at=bad.nii.gz")[0].status == 400


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_work_lives_on_without_the_page_and_tells_how_it_ended(root):
    job = jobs.start(root, ["methods"], title="List", output=root / "x")
    wait_for(lambda: not job.running)
    assert (job.state, job.code) == ("done", 0)
    assert "regression" in job.log
    failed = jobs.start(root, ["prepare", "-i", "none", "-o", str(root / "c")], title="No data", output=root / "c")
    wait_for(lambda: not failed.running)
    assert failed.state == "failed"
    assert "does not exist" in failed.log
    assert [one.title for one in jobs.jobs(root)] == ["No data", "List"] or failed.begun == job.begun
    with pytest.raises(InputError, match="no such work"):
        jobs.read(root, "../jobs")


def trained_words(cohort, run):
    words = ["train", "regression_small", "--cohort", str(cohort.folder), "--run", str(run), "--device", "cpu"]
    return [*words, "--training.steps", "100000", "--training.validate-every", "100000"]


def test_a_training_is_stopped_goes_on_and_survives_the_page(root, cohort):
    """Started by a process that dies at once, as a page that is killed."""
    code = (
        "import sys, os, json\nfrom pathlib import Path\nfrom scansynth.app import jobs\n"
        "job = jobs.start(Path(sys.argv[1]), json.loads(sys.argv[2]), title='Training', output=Path(sys.argv[3]))\n"
        "os.kill(os.getpid(), 9)"
    )
    run = root / "run"
    words = json.dumps(trained_words(cohort, run))
    done = subprocess.run([sys.executable, "-c", code, str(root), words, str(run)], check=False)
    assert done.returncode == -signal.SIGKILL
    (job,) = jobs.jobs(root)
    try:
        assert job.running
        wait_for(lambda: (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text())
        with pytest.raises(InputError, match="at work there"):
            jobs.start(root, trained_words(cohort, run), title="Again", output=run)
        with pytest.raises(InputError, match="runs already"):
            job.again()
        job.stop()
        wait_for(lambda: not job.running)
        assert job.state == "stopped"
        assert "the same command goes on" in job.log
        job.again()
        wait_for(lambda: "going on at step" in job.log)
        assert job.state == "running"
        os.kill(int((job.folder / "pid").read_text()), signal.SIGKILL)  # of the keeper, as a machine that dies
        wait_for(lambda: job.state == "killed")
    finally:
        subprocess.run(["pkill", "-9", "-f", f"train regression_small .*{run}"], check=False)


@pytest.fixture
def browser(tmp_path):
    with closing(Browser(tmp_path / "browser", size=(1280, 900))) as one:
        yield one


def by_text(browser, selector, text):
    """Mark the element with a text, so that it can be clicked."""
    found = browser.run(
        f"(() => {{ const one = [...document.querySelectorAll({json.dumps(selector)})]"
        f".find((one) => one.textContent.trim() === {json.dumps(text)}); if (!one) return false;"
        "document.querySelectorAll('[data-found]').forEach((other) => other.removeAttribute('data-found'));"
        "one.setAttribute('data-found', ''); return true; })()"
    )
    assert found, f"no {selector} {text!r}: {browser.run('document.body.innerText')}"
    return "[data-found]"


def follow(browser, text, selector="a"):
    """Click a link, and wait for its page."""
    before = browser.run("performance.timeOrigin")
    browser.click(by_text(browser, selector, text))
    browser.wait(f"performance.timeOrigin !== {before} && document.readyState === 'complete'", 60)


@pytest.mark.slow
def test_a_whole_run_by_clicks_alone(root, server, browser, tmp_path):
    """From a folder of phantoms to a synthetic file on the disk, then one subject dropped, and the viewer."""
    write_phantom_cohort(
        root / "phantoms", 8, ("T1w", "T2w"), layout="BIDS", shape=(32, 32, 16), spacing=6.0,
        missing=dict.fromkeys(LACKING, ("T2w",)),
    )  # fmt: skip
    browser.visit(server.address)
    assert "token" not in browser.run("location.href")
    follow(browser, "phantoms")
    assert browser.run("document.querySelectorAll('.missing').length") == 3
    browser.wait("[...document.querySelectorAll('.scans img')].slice(0, 4).every((one) => one.naturalWidth > 40)")
    browser.click('input[value="T2w"]')
    browser.run("document.querySelector('[name=hours]').value = ''")
    browser.click("[name=hours]")
    browser("Input.insertText", text="0.01")
    follow(browser, "Plan first", "button")
    browser.wait("document.querySelector('.state').textContent === 'done'", 120)
    assert "regression" in browser.run("document.querySelector('.log').textContent")
    follow(browser, "Do what is planned", "button")
    first = browser.run("location.href")
    with closing(Browser(tmp_path / "other", size=(1920, 1080))) as second:  # a second tab; the first is left
        second.visit(server.address)
        second.visit(first)
        browser.visit("about:blank")
        second.wait("document.querySelector('.state').textContent === 'done'", 300)
        assert second.complaints == []
    browser.visit(first)
    assert browser.run("document.querySelectorAll('a.download').length") == 3
    assert browser.run("[...document.querySelectorAll('.curves img')].every((one) => one.naturalWidth > 100)")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    browser("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.click("a.download")
    wait_for(lambda: list(downloads.glob("*.nii.gz")), 30)
    made = nib.load(next(downloads.glob("*.nii.gz")))
    assert made.shape == (32, 32, 16)
    assert b"SYNTHETIC" in made.header["descrip"].item()
    # One subject, dropped on the page of the run, with the truth to compare with.
    browser.visit(server.origin)
    follow(browser, "translate")
    scan = root / "phantoms" / "sub-001" / "anat" / "sub-001_T1w.nii.gz"
    browser.give_file('input[data-slot="T1w"]', scan)
    browser.give_file('input[data-slot="truth"]', scan.with_name("sub-001_T2w.nii.gz"))
    browser.wait("document.querySelectorAll('.slot.full').length === 2")
    browser.click('input[name="target"][value="T2w"]')
    follow(browser, "Make it", "button")
    browser.wait("document.querySelector('.state').textContent === 'done'", 120)
    follow(browser, "look at it")
    browser.wait("document.querySelector('#viewer-root')?.ariaBusy === 'false'")
    kinds = browser.run("[...document.querySelectorAll('#choice-1 optgroup')].map((one) => one.label)")
    assert kinds == ["Source", "Synthesis", "Truth", "Error"]
    assert not [line for line in browser.complaints if "favicon" not in line]
    browser.visit(f"{server.origin}/reports")
    names = browser.run("[...document.querySelectorAll('.entries a')].map((one) => one.textContent)")
    follow(browser, next(name for name in names if name.endswith("-filled/report.html")))
    assert "Synthesis of T2w" in browser.run("document.body.innerText")
    follow(browser, "evaluation/report.html")  # a link out of the sandbox
    browser.wait("document.querySelector('#viewer-root')?.ariaBusy === 'false'")


def test_a_hostile_run_in_the_browser(root, server, browser, cohort, tiny):
    train(tiny(steps=4, validate_every=2), cohort, root / HOSTILE, device=torch.device("cpu"))
    browser.visit(server.address)
    follow(browser, HOSTILE)
    browser.wait("[...document.querySelectorAll('img')].every((one) => one.naturalWidth > 100)")
    assert browser.run("document.querySelectorAll('img').length") >= 3  # curves, and a picture of a validation subject
    follow(browser, "translate")
    browser.click('form button[type="submit"]')
    browser.wait("!document.querySelector('#said').hidden")
    assert "drop at least one scan" in browser.run("document.querySelector('#said').textContent")
    assert "666" not in browser.run("document.title")
    assert [line for line in browser.complaints if "400" not in line] == []


def test_the_page_works_by_keyboard_in_light_and_dark(root, server, browser):
    write_phantom_cohort(root / "scans", 2, ("T1w", "T2w"), layout="BIDS", shape=(32, 32, 16), spacing=6.0)
    browser.visit(server.address)
    browser.visit(f"{server.origin}/data?at=scans")
    seen = []
    for _ in range(14):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.name || document.activeElement.textContent.trim()"))
    wanted = ["Folder", "Reports", "target", "hours", "output", "do"]
    assert [name for name in seen if name in wanted and seen.count(name)][:2] == ["Folder", "Reports"]
    assert set(wanted) <= set(seen)
    for scheme in ("light", "dark"):
        browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for width in (1280, 1920):
            browser.resize(width, 900)
            colours = browser.run(
                "(() => { const one = getComputedStyle(document.body); return [one.color, one.backgroundColor]"
                ".map((text) => text.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3); })()"
            )
            assert abs(colours[0] - colours[1]) > 150
            assert (colours[1] < 90) == (scheme == "dark")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_whose_program_is_gone_says_so(root, browser):
    write_phantom_cohort(root / "scans", 2, ("T1w", "T2w"), layout="BIDS", shape=(32, 32, 16), spacing=6.0)
    program = subprocess.Popen([sys.executable, "-m", "scansynth", "app", str(root)], stdout=subprocess.PIPE, text=True)
    try:
        address = program.stdout.readline().split()[-1]
        browser.visit(address)
        follow(browser, "scans")
    finally:
        program.kill()
        program.wait()
    browser.click('input[value="T2w"]')
    browser.click(by_text(browser, "button", "Start"))
    browser.wait("!document.querySelector('#said').hidden")
    assert "does not reach its program" in browser.run("document.querySelector('#said').textContent")
