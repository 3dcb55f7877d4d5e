"""The page of a run in a real browser: the previews are flipped through, and nothing is wider than a phone.

    bash launch/test.sh --with-references

``PICTURES=folder`` keeps screenshots.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from configs import own_images
from imagen_jax.evaluation.reports.run_page import write_run_page
from imagen_jax.training.monitoring.noise_levels import name_levels

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the extra 'browser'")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
STEPS = (100, 200, 1000)

pytestmark = [
    pytest.mark.references,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver is on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("base")
    (workdir / "previews").mkdir()
    (workdir / "config.json").write_text(json.dumps(own_images.get_config("base,smoke").to_dict()))
    lines = [{"step": step, "loss": 1 / step, **dict.fromkeys(name_levels(), 0.1)} for step in STEPS]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    incident = {"step": 200, "kind": "spike", "loss": 9.5, "keys": ["a/very/long/name/of/an/image.png"] * 4}
    (workdir / "incidents.jsonl").write_text(json.dumps(incident) + "\n")
    for step in STEPS:
        Image.new("RGB", (560, 300), (step // 4, 0, 0)).save(workdir / "previews" / f"{step:07d}.png")
    return write_run_page(workdir)


@pytest.fixture(scope="module")
def driver(page, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking",
                     f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(driver, page, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(page.as_uri())


def shown(driver):
    figures = driver.find_elements(By.CSS_SELECTOR, ".frames figure")
    return [figure.get_attribute("id") for figure in figures if figure.is_displayed()]


def test_a_click_and_the_arrow_keys_choose_a_preview(driver, page):
    open_page(driver, page, 1280)
    assert shown(driver) == ["preview-1000"]
    driver.find_element(By.CSS_SELECTOR, "label[for=step-100]").click()
    assert shown(driver) == ["preview-100"]
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert shown(driver) == ["preview-200"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_requests_nothing(driver, page, width):
    open_page(driver, page, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    images = driver.find_elements(By.CSS_SELECTOR, ".plots img")
    assert images and all(driver.execute_script("return arguments[0].naturalWidth", image) > 100 for image in images)
    events = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    requested = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if url.startswith(("http", "ws", "ftp"))] == []
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []
    if "PICTURES" in os.environ:
        driver.save_screenshot(str(Path(os.environ["PICTURES"]) / f"run_page_{width}.png"))
