"""The rating page in a real browser: clicks, keys, reloads and corrections, and the resulting rows of the database.

    bash launch/test.sh --with-references

``PICTURES=folder`` keeps screenshots.
"""

import os
import shutil
import threading
from pathlib import Path

import pytest

from imagen_jax.web.listening import keep_out
from imagen_jax.web.pairs import make_comparison
from imagen_jax.web.rating_app import make_rating_app
from imagen_jax.web.ratings import RatingStore
from tests.tiers import thorough_rows_except
from tests.web.rating_folders import write_two_folders
from tests.web.served import serving

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the extra 'browser'")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 60
PROMPTS = [
    "a red apple",
    "<b>panda</b> 🐼",
    'a pizza, with "everything"',
    "a triangle inside a circle",
    "one cat and two dogs",
]

# The colour of an image's middle, as the browser decoded it, shows its model.
MODELS_SHOWN = """
    return ["left", "right"].map((side) => {
      const image = document.querySelector(`#${side} img`), canvas = document.createElement("canvas");
      Object.assign(canvas, {width: image.naturalWidth, height: image.naturalHeight});
      canvas.getContext("2d").drawImage(image, 0, 0);
      const [red, , blue] = canvas.getContext("2d").getImageData(8, 8, 1, 1).data;
      return red > blue ? "a" : "b";
    });
"""

pytestmark = [
    pytest.mark.references,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver is on this machine"),
]


class Rater:
    """A person who rates in a browser."""

    def __init__(self, profile, port, store):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1300,900",
                         "--disable-background-networking", f"--user-data-dir={profile}"):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver, self.port, self.store = webdriver.Chrome(options, webdriver.ChromeService(DRIVER)), port, store
        self.load()

    def load(self):
        self.driver.get(f"http://127.0.0.1:{self.port}/")
        self.wait(lambda: any(self.by_id(name).is_displayed() for name in ("start", "rating", "end")))

    def by_id(self, name):
        return self.driver.find_element(By.ID, name)

    def wait(self, is_so):
        return WebDriverWait(self.driver, SECONDS, 0.02).until(lambda _: is_so())

    def enter(self, name):
        self.by_id("name").send_keys(name)
        self.by_id("begin").click()
        self.wait_for_pair()

    def wait_for_pair(self):
        self.wait(lambda: "next" in (self.by_id("alignment").get_attribute("class") or ""))

    def models(self):
        return self.driver.execute_script(MODELS_SHOWN)

    def prompt(self):
        return self.by_id("caption").text

    def count(self):
        return self.by_id("count").text

    def click(self, question, answer):
        self.by_id(question).find_element(By.CSS_SELECTOR, f"button[value={answer}]").click()

    def press(self, *keys):
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def answered(self, before):
        """Waits until the next pair, or the end, is visible."""
        self.wait(lambda: self.by_id("end").is_displayed() or self.count() != before)
        if not self.by_id("end").is_displayed():
            self.wait_for_pair()

    def keep_screen(self, name):
        if folder := os.environ.get("PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def answers(self, rater):
        """Returns a rater's answers in the database: the preferred model, by prompt and question."""
        found = {}
        for one in self.store.ratings():
            if one.rater == rater:
                found.setdefault(one.prompt, {})[one.question] = one.answer
        return found


@pytest.fixture
def rater(tmp_path):
    comparison = make_comparison(*write_two_folders(tmp_path, PROMPTS))
    with RatingStore(tmp_path / "ratings.sqlite", comparison) as store:
        with serving(make_rating_app(store, comparison.pairs, keep_out("127.0.0.1"))) as port:
            person = Rater(tmp_path / "profile", port, store)
            yield person
            complaints = [line["message"] for line in person.driver.get_log("browser") if line["level"] == "SEVERE"]
            person.driver.quit()
    # For a refused request, a browser logs the status of the response.
    assert [line for line in complaints if "/next" not in line and "/answers" not in line] == []


def test_clicks_keys_and_a_reload_become_the_right_rows(rater):
    rater.keep_screen("start")
    rater.by_id("begin").click()
    rater.wait(lambda: "name" in rater.by_id("problem").text)
    rater.enter("Ann O'Neill")
    expected = {}
    for number in range(len(PROMPTS)):
        prompt, (left, right), before = rater.prompt(), rater.models(), rater.count()
        assert before == f"{number} of 5 pairs rated"
        if number == 0:  # with clicks
            rater.keep_screen("pair")
            rater.click("alignment", "left")
            assert rater.by_id("fidelity").get_attribute("class") == "next"
            rater.keep_screen("one_answer")
            rater.click("fidelity", "right")
            expected[prompt] = {"alignment": left, "fidelity": right}
        elif number == 1:  # the second question first, and the other one changed before both are there
            rater.click("fidelity", "left")
            rater.click("fidelity", "indifferent")
            rater.click("alignment", "right")
            expected[prompt] = {"alignment": right, "fidelity": "indifferent"}
        else:  # with keys
            rater.press("3", "1")
            expected[prompt] = {"alignment": right, "fidelity": left}
        rater.answered(before)
        assert rater.answers("Ann O'Neill") == expected
        if number == 2:
            shown = rater.prompt(), rater.models()
            rater.load()
            rater.wait_for_pair()
            assert (rater.prompt(), rater.models()) == shown and rater.count() == "3 of 5 pairs rated"
    assert set(expected) == set(PROMPTS)
    assert rater.by_id("end").is_displayed() and "all 5 pairs" in rater.by_id("total").text
    rater.keep_screen("end")
    rater.load()
    assert rater.by_id("end").is_displayed(), "the end is shown again after a reload"


def test_answers_can_be_corrected_and_half_an_answer_does_not_count(rater):
    rater.enter("Ann")
    prompt, (left, _) = rater.prompt(), rater.models()
    assert not rater.by_id("back").is_enabled()
    rater.press("1")
    rater.load()
    rater.wait_for_pair()
    assert rater.prompt() == prompt and rater.answers("Ann") == {}
    rater.press("2", "2")
    rater.answered("0 of 5 pairs rated")
    rater.press(Keys.BACKSPACE)
    rater.wait(lambda: rater.prompt() == prompt)
    rater.wait_for_pair()
    assert rater.models()[0] == left and rater.count() == "1 of 5 pairs rated"
    rater.press("1", "1")
    rater.wait(lambda: rater.prompt() != prompt)
    rater.wait_for_pair()
    assert rater.answers("Ann") == {prompt: {"alignment": left, "fidelity": left}}


def test_another_rater_in_the_same_browser_starts_from_the_first_pair(rater):
    rater.enter("Ann")
    rater.press("1", "1")
    rater.answered("0 of 5 pairs rated")
    rater.by_id("leave").click()
    rater.enter("Bob")
    assert rater.count() == "0 of 5 pairs rated" and rater.by_id("who").text == "Bob"
    rater.press("3", "3")
    rater.answered("0 of 5 pairs rated")
    assert len(rater.answers("Ann")) == len(rater.answers("Bob")) == 1


def test_no_loaded_resource_names_a_model(rater):
    rater.enter("Ann")
    page = rater.driver.page_source + str(
        rater.driver.execute_script("return performance.getEntries().map((one) => one.name)")
    )
    assert "pictures/" in page
    for word in ("ours", "theirs", "model"):
        assert word not in page.lower()


def test_an_answer_that_is_not_stored_can_be_repeated(rater):
    rater.enter("Ann")
    prompt = rater.prompt()
    rater.store._ask("PRAGMA query_only = ON")
    rater.press("1", "1")
    rater.wait(lambda: rater.by_id("problem").text)
    assert rater.prompt() == prompt and rater.count() == "0 of 5 pairs rated"
    rater.store._ask("PRAGMA query_only = OFF")
    rater.press("1", "1")
    rater.answered("0 of 5 pairs rated")
    assert list(rater.answers("Ann")) == [prompt] and rater.by_id("problem").text == ""


def test_images_that_are_not_visible_can_not_be_rated(rater, tmp_path):
    rater.enter("Ann")
    hidden = [file.rename(file.with_suffix(".hidden")) for file in (tmp_path / "ours").glob("*.png")]
    # Prefetched images are still in the cache.
    rater.driver.execute_cdp_cmd("Network.enable", {})
    rater.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    rater.driver.get(f"http://127.0.0.1:{rater.port}/")
    rater.wait(lambda: "image" in rater.by_id("problem").text)
    rater.press("1", "1")
    assert rater.by_id("alignment").find_elements(By.CSS_SELECTOR, "button:enabled") == []
    assert rater.store.ratings() == []
    for file in hidden:
        file.rename(file.with_suffix(".png"))
    rater.load()
    rater.wait_for_pair()
    rater.driver.get_log("browser")


@pytest.mark.parametrize(
    ("width", "height"),
    thorough_rows_except([(420, 900), (1000, 700)], [(420, 900), (900, 800), (1000, 700), (1300, 900)]),
)
def test_the_whole_page_is_visible_and_nothing_overflows(rater, width, height):
    rater.enter("Ann")
    rater.driver.set_window_size(width, height)
    assert rater.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    bottom = rater.driver.execute_script("return document.getElementById('foot').getBoundingClientRect().bottom")
    assert bottom <= rater.driver.execute_script("return window.innerHeight")
    sizes = [rater.by_id(side).find_element(By.TAG_NAME, "img").size for side in ("left", "right")]
    assert sizes[0] == sizes[1] and sizes[0]["width"] > 0.3 * min(width, height - 200)
    rater.keep_screen(f"width_{width}")


def test_sets_of_eight_and_two_raters_at_once(tmp_path):
    comparison = make_comparison(*write_two_folders(tmp_path, PROMPTS[:3], each=8), together=8)
    with RatingStore(tmp_path / "ratings.sqlite", comparison) as store:
        with serving(make_rating_app(store, comparison.pairs, keep_out("127.0.0.1"))) as port:
            people = {name: Rater(tmp_path / name, port, store) for name in ("Ann", "Bob")}

            def rate_all(name):
                person = people[name]
                person.enter(name)
                assert len(person.by_id("left").find_elements(By.TAG_NAME, "img")) == 8
                person.keep_screen("eight")
                while not person.by_id("end").is_displayed():
                    before, mine = person.count(), person.models()
                    person.press(str(1 + 2 * mine.index("a")), "2")
                    person.answered(before)

            threads = [threading.Thread(target=rate_all, args=(name,)) for name in people]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for name, person in people.items():
                wanted = {"alignment": "a", "fidelity": "indifferent"}
                assert person.answers(name) == dict.fromkeys(PROMPTS[:3], wanted)
                person.driver.quit()
