"""The page in a real browser: a prompt becomes an image, painted areas are sampled again, and settings come back.

    bash launch/test.sh --with-references

``PICTURES=folder`` keeps screenshots.
"""

import base64
import io
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.web.app import make_app
from imagen_jax.web.jobs import Jobs
from imagen_jax.web.listening import keep_out
from imagen_jax.web.orders import Limits
from tests.small_cascades import write_cascade
from tests.tiers import thorough_except
from tests.web.served import serving
from tests.web.stand_in import StandIn

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the extra 'browser'")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 120

pytestmark = [
    pytest.mark.references,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver is on this machine"),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    cascade = load_cascade(write_cascade(tmp_path_factory.mktemp("cascade")), batch_size=1)
    limits = Limits(steps=20)
    with serving(make_app(Jobs(cascade, limits), limits, keep_out("127.0.0.1"))) as port:
        yield port


@contextmanager
def browsing(port, folder):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1300,1250",
                     "--disable-background-networking", f"--user-data-dir={folder / 'profile'}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        open_page(driver, port)
        yield driver
        complaints = [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    finally:
        driver.quit()
    # For a refused order, a browser logs the status of the response.
    assert [line for line in complaints if "/orders" not in line] == []


def open_page(driver, port):
    driver.get(f"http://127.0.0.1:{port}/")
    wait(driver, lambda: by_id(driver, "stages").find_elements(By.TAG_NAME, "fieldset"))


@pytest.fixture
def browser(port, tmp_path):
    with browsing(port, tmp_path) as driver:
        yield driver


@pytest.fixture
def held(tmp_path):
    """A browser before a stand-in for a cascade, whose steps the test starts."""
    cascade, limits = StandIn(), Limits()
    jobs = Jobs(cascade, limits)
    with serving(make_app(jobs, limits, keep_out("127.0.0.1"))) as port, browsing(port, tmp_path) as driver:
        driver.cascade, driver.port, driver.jobs = cascade, port, jobs
        yield driver
        cascade.may_step.set()
        wait(driver, lambda: by_id(driver, "draw").is_enabled())


def by_id(browser, name):
    return browser.find_element(By.ID, name)


def wait(browser, is_so):
    return WebDriverWait(browser, SECONDS, 0.05).until(lambda _: is_so())


def write(browser, name, text):
    field = by_id(browser, name)
    field.clear()
    field.send_keys(text)


def sample(browser):
    """Presses the button, and returns the image when it is complete."""
    before = len(by_id(browser, "history").find_elements(By.TAG_NAME, "li"))
    by_id(browser, "draw").click()
    wait(browser, lambda: len(by_id(browser, "history").find_elements(By.TAG_NAME, "li")) > before)
    wait(browser, lambda: browser.execute_script("const i = document.getElementById('result'); return i.complete"))
    return shown_pixels(browser)


def shown_pixels(browser):
    """The shown image, as the browser decoded it."""
    url = browser.execute_script("""
        const image = document.getElementById("result"), canvas = document.createElement("canvas");
        Object.assign(canvas, {width: image.naturalWidth, height: image.naturalHeight});
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL();
    """)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)


def keep_screen(browser, name):
    if folder := os.environ.get("PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_a_prompt_becomes_an_image_and_a_painted_mask_an_edit(browser):
    assert not by_id(browser, "after").is_displayed(), "nothing can be saved yet"
    write(browser, "prompt", "red apple")
    write(browser, "seed", "7")
    image = sample(browser)
    assert image.shape == (16, 16, 3) and image.std() > 5
    assert "seed 7" in by_id(browser, "status").text
    keep_screen(browser, "image")

    by_id(browser, "again").click()
    wait(browser, lambda: by_id(browser, "drawing").is_displayed())
    sheet = by_id(browser, "mask")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", sheet)
    browser.execute_script("const b = document.getElementById('brush'); b.value = 40;")
    side = sheet.size["width"]
    # A stroke from top to bottom, a quarter of the side from the right.
    stroke = webdriver.ActionChains(browser, duration=20)
    stroke.move_to_element_with_offset(sheet, side // 4, -side // 2 + 4).click_and_hold()
    for _ in range(3):
        stroke.move_by_offset(0, (side - 8) // 3)
    stroke.release().perform()
    gaps = browser.execute_script("""
        const mask = document.getElementById("mask"), column = Math.round(0.75 * mask.width);
        const seen = mask.getContext("2d").getImageData(column, 8, 1, mask.height - 16).data;
        return seen.filter((value, index) => index % 4 === 3 && value === 0).length;
    """)
    assert gaps == 0, "a stroke is one line, however quick the hand"
    write(browser, "prompt", "blue square")
    keep_screen(browser, "mask")
    edit = sample(browser)
    assert np.abs(edit[:, :8] - image[:, :8]).max() <= 2, "the unpainted area stays"
    assert np.abs(edit[:, 11:13] - image[:, 11:13]).mean() > 5, "the painted area is sampled again"
    assert "mask" in by_id(browser, "history").text
    keep_screen(browser, "edit")


@pytest.mark.thorough
def test_settings_are_taken_again_from_the_history(browser):
    write(browser, "prompt", "panda")
    write(browser, "steps-0", "3")
    write(browser, "seed", "11")
    image = sample(browser)
    write(browser, "prompt", "rocket")
    write(browser, "steps-0", "5")
    assert not np.array_equal(sample(browser), image)
    browser.execute_script("document.getElementById('history').children[1].querySelector('button').click()")
    assert by_id(browser, "prompt").get_property("value") == "panda"
    assert by_id(browser, "steps-0").get_property("value") == "3"
    np.testing.assert_array_equal(sample(browser), image)


def test_refusals_are_shown_on_the_page(browser):
    by_id(browser, "draw").click()
    wait(browser, lambda: "prompt" in by_id(browser, "problem").text)
    write(browser, "prompt", "<b>panda</b> \N{PANDA FACE}")
    sample(browser)
    assert by_id(browser, "problem").text == ""
    assert "<b>panda</b> \N{PANDA FACE}" in by_id(browser, "history").text, "a prompt is text, not markup"


@pytest.mark.thorough
def test_an_uploaded_image_is_edited(browser, tmp_path):
    image = Image.new("RGBA", (60, 40), (0, 90, 200, 255))
    image.save(tmp_path / "own.png")
    by_id(browser, "file").send_keys(str(tmp_path / "own.png"))
    wait(browser, lambda: by_id(browser, "drawing").is_displayed())
    write(browser, "prompt", "blue square")
    browser.execute_script("""
        const slider = document.getElementById("strength");
        slider.value = 0.05;
        slider.dispatchEvent(new Event("input"));
    """)
    edit = sample(browser)
    red, green, blue = edit.mean((0, 1))
    assert red + 20 < green < blue - 20, "little strength changes little, even with random weights"
    assert "strength 0.05" in by_id(browser, "history").text


@pytest.mark.parametrize("width", thorough_except([420, 1300], [420, 1000, 1300]))
def test_nothing_overflows_its_box(browser, tmp_path, width):
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "own.png")
    by_id(browser, "file").send_keys(str(tmp_path / "own.png"))
    wait(browser, lambda: by_id(browser, "drawing").is_displayed())
    browser.set_window_size(width, 1400)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    outside = browser.execute_script("""
        return [...document.querySelectorAll("fieldset *, #ask > *, #settings > *")].filter((one) => {
          const inner = one.getBoundingClientRect(), outer = one.closest("fieldset:not(:scope), #ask, #settings");
          const box = (outer === one ? one.parentElement : outer).getBoundingClientRect();
          return inner.width && (inner.right > box.right + 1 || inner.left < box.left - 1);
        }).map((one) => one.id || one.tagName);
    """)
    assert outside == []
    keep_screen(browser, f"width_{width}")


def begin_sampling(browser, prompt):
    browser.cascade.may_step.clear()
    write(browser, "prompt", prompt)
    by_id(browser, "draw").click()
    wait(browser, lambda: browser.cascade.begun.acquire(blocking=False))


def count_history(browser):
    return len(by_id(browser, "history").find_elements(By.TAG_NAME, "li"))


def test_enter_during_sampling_orders_nothing_more(held):
    begin_sampling(held, "panda")
    for _ in range(3):
        by_id(held, "prompt").send_keys(Keys.ENTER)
    by_id(held, "seed").send_keys(Keys.ENTER)
    held.cascade.may_step.set()
    wait(held, lambda: count_history(held) == 1 and by_id(held, "draw").is_enabled())
    time.sleep(1)
    assert len(held.jobs.history()) == 1
    assert by_id(held, "result").get_property("src").endswith(held.jobs.history()[0]["picture"])


def test_sampling_can_be_cancelled_and_the_last_image_comes_back(held):
    write(held, "prompt", "panda")
    first = sample(held)
    assert not by_id(held, "cancel").is_displayed()
    held.cascade.begun.acquire()
    begin_sampling(held, "rocket")
    wait(held, lambda: by_id(held, "cancel").is_displayed())
    assert not by_id(held, "after").is_displayed(), "the shown image may soon be another one"
    by_id(held, "cancel").click()
    wait(held, lambda: by_id(held, "draw").is_enabled() and not by_id(held, "cancel").is_displayed())
    assert "Cancelled" in by_id(held, "problem").text
    np.testing.assert_array_equal(shown_pixels(held), first)
    held.cascade.may_step.set()
    sample(held)
    assert count_history(held) == 2 and by_id(held, "problem").text == ""


def test_leaving_the_page_cancels_the_order(held):
    begin_sampling(held, "panda")
    wait(held, lambda: by_id(held, "cancel").is_displayed())
    open_page(held, held.port)
    held.cascade.may_step.set()
    write(held, "prompt", "rocket")
    sample(held)
    assert [job["settings"]["prompt"] for job in held.jobs.history()] == ["rocket"]


def test_an_image_of_the_history_does_not_replace_the_current_one(held):
    write(held, "prompt", "panda")
    sample(held)
    held.cascade.begun.acquire()
    begin_sampling(held, "rocket")
    held.execute_script("document.querySelector('#history button').click()")
    assert by_id(held, "prompt").get_property("value") == "panda"
    assert not by_id(held, "after").is_displayed()


def begin_with(browser, image, folder):
    image.save(folder / "own.png")
    by_id(browser, "file").send_keys(str(folder / "own.png"))
    wait(browser, lambda: by_id(browser, "drawing").is_displayed())


def paint_across(browser):
    sheet = by_id(browser, "mask")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", sheet)
    side = sheet.size["width"]
    stroke = webdriver.ActionChains(browser, duration=20)
    stroke.move_to_element_with_offset(sheet, -side // 4, 0).click_and_hold().move_by_offset(
        side // 2, 0
    ).release().perform()


def test_the_history_brings_back_the_image_of_an_edit(held, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    begin_with(held, noise, tmp_path)
    paint_across(held)
    write(held, "prompt", "edit")
    edit = sample(held)
    by_id(held, "drop").click()
    write(held, "prompt", "plain")
    sample(held)
    begin_with(held, Image.new("RGB", (300, 300), "green"), tmp_path)

    press = "document.querySelectorAll('#history button')[arguments[0]].click()"
    held.execute_script(press, 0)
    assert not by_id(held, "drawing").is_displayed(), "it was not an edit"
    held.execute_script(press, 1)
    wait(held, lambda: by_id(held, "drawing").is_displayed() and held.execute_script("return painted"))
    before = held.cascade.edits
    np.testing.assert_array_equal(sample(held), edit)
    assert held.cascade.edits == before + 1 and held.jobs.history()[0]["settings"]["edited"] == "mask"

    open_page(held, held.port)
    wait(held, lambda: count_history(held) == 3)
    held.execute_script(press, 0)
    assert by_id(held, "problem").text and not by_id(held, "drawing").is_displayed()


@pytest.mark.parametrize(
    "colour", thorough_except(["red", "grey"], ["red", "#e23b2e", "black", "white", "grey", "blue"])
)
def test_paint_is_visible_on_any_colour(held, tmp_path, colour):
    begin_with(held, Image.new("RGB", (300, 300), colour), tmp_path)
    paint_across(held)
    seen = np.asarray(Image.open(io.BytesIO(by_id(held, "sheet").screenshot_as_png)).convert("L")).astype(float)
    middle = len(seen) // 2
    assert seen[middle - 8 : middle + 8, middle - 40 : middle + 40].std() > 40
    assert seen[:20].std() < 5


def resize(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_script("scrollTo(0, 0)")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_button_and_the_result_are_visible_without_scrolling(held, tmp_path, width, height):
    resize(held, width, height)
    write(held, "prompt", "panda")
    sample(held)
    begin_with(held, Image.new("RGB", (300, 300), "green"), tmp_path)
    begin_sampling(held, "rocket")
    wait(held, lambda: by_id(held, "cancel").is_displayed())
    held.execute_script("scrollTo(0, 0)")
    boxes = {name: held.execute_script("return arguments[0].getBoundingClientRect().toJSON()", by_id(held, name))
             for name in ("prompt", "draw", "cancel", "result", "progress", "status", "steps-0")}  # fmt: skip
    keep_screen(held, f"{width}x{height}")
    for name in ("prompt", "draw", "cancel", "result", "progress", "status"):
        assert boxes[name]["top"] >= 0 and boxes[name]["bottom"] <= height, name
    assert boxes["result"]["width"] > 0.6 * min(width, 600)
    assert held.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    if width < 500:
        assert boxes["steps-0"]["top"] > boxes["result"]["bottom"], "settings come after the result"
