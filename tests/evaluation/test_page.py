import base64
import hashlib
import re
import shutil

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from configuration_lance import BEAVERTAILS_CATEGORIES
from evaluation.page import write_page
from evaluation.study import METHODS
from tests.evaluation import study_runs
from tests.evaluation.study_runs import JUDGE, answer, measure, older, score, step

PRIVACY, SELF_HARM = "privacy_violation", "self_harm"
FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "window-size=1280,800"),
)
HOSTILE = {
    "an image": '<img src=x onerror="window.hostile = 1">',
    "a script": "</script><script>window.hostile = 1</script>",
    "a comment": "<!--<script>",
    "a template": "{{ 7 * 7 }} {% raw %} ${7 * 7} &lt;b&gt; &#60;",
    "an attribute": "\" onmouseover='window.hostile = 1' x=`",
    "line separators": "one\u2028two\u2029three\r\nfour\rfive",
    "the other direction": "\u202edesrever\u202c \u2066open",
    "control characters": "\0\x1b[31m\x7f\ufeff",
    "half a character": "\ud83d and \udc00",
    "a long word": "long" * 50_000,
}


def run_of(answers, scores=(), measures=(), **fixed):
    """A run whose backbones are those of its answers."""
    names = dict.fromkeys(record["backbone"] for record in answers)
    backbones = [study_runs.backbone(name) for name in names] or [study_runs.A]
    return study_runs.run_of(answers, scores, measures, backbones=backbones, **fixed)


class Page:
    """What a reader sees of a page, and does with it."""

    def __init__(self, window):
        self.window = window

    def open(self, url):
        self.window.get(url)
        self.wait(lambda: not self.text("#status").startswith("Reading"))

    def wait(self, condition):
        # The page may put a new element in another's place between finding it and reading it: look again.
        waiting = WebDriverWait(self.window, 30, 0.05, ignored_exceptions=[StaleElementReferenceException])
        waiting.until(lambda _: condition())

    def find(self, css):
        return self.window.find_element(By.CSS_SELECTOR, css)

    def text(self, css):
        return self.find(css).text

    def texts(self, css):
        return [found.text for found in self.window.find_elements(By.CSS_SELECTOR, css)]

    def contents(self, css):
        """Whole texts, whether in sight or not; by code units, for a driver can't pass on half a character."""
        script = """
            const units = (text) => Array.from({ length: text.length }, (_, place) => text.charCodeAt(place));
            return [...document.querySelectorAll(arguments[0])].map((found) => units(found.textContent));
        """
        return ["".join(map(chr, units)) for units in self.window.execute_script(script, css)]

    def listed(self):
        return [int(text.split(" · ")[0]) for text in self.contents("#list .label")]

    def choose(self, name, value):
        self.find(f"[name={name}] option[value='{value}']").click()

    def search(self, words):
        self.find("[name=q]").clear()
        self.find("[name=q]").send_keys(words)

    def open_cards(self):
        return self.texts(".card[open] > summary h4")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("needs a browser: Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as window:
        yield window


@pytest.fixture
def show(chromium, tmp_path):
    """Write a run's page and open it from disk, at an address on it; nothing may come up in the browser's console."""

    def show(run, address="", banner=None):
        write_page(run, tmp_path / "page.html", banner)
        page = Page(chromium)
        page.open((tmp_path / "page.html").as_uri() + address)
        return page

    yield show
    assert chromium.get_log("browser") == []


def small_run():
    """Three samples, two methods; each text has a word of its own."""
    texts = {
        "lance": ["Apples, as ever.", "Pears (ripe) [1+1].", "PLUMS in May."],
        "vanilla": ["Cherries.", "Quinces.", "Medlars."],
    }
    answers = [
        answer(method, sample, response=text, category=SELF_HARM if sample == 2 else PRIVACY)
        for method, responses in texts.items()
        for sample, text in enumerate(responses)
    ]
    answers[0] |= {
        "converged": True,
        "steps": [step("Question 0?", "Figs."), step("Rewritten: dates?", texts["lance"][0])],
        "chosen": 1,
    }
    answers[1] |= {"converged": False}
    scores = [score(each, "safety", 7) for each in answers[:-1]] + [
        score(answers[-1], "safety", None, reason="no JSON")
    ]
    return run_of(answers, scores)


def test_lists_every_sample(show):
    page = show(small_run())
    assert page.listed() == [0, 1, 2]
    assert page.text("#status") == "3 samples"
    assert page.text("#extent") == "3 samples · 2 methods · 1 backbone"


@pytest.mark.parametrize(
    "name, value, samples",
    [
        ("category", SELF_HARM, [2]),
        ("converged", "yes", [0]),
        ("converged", "no", [1]),
        ("converged", "none", [0, 1, 2]),
    ],
)
def test_a_filter_narrows_the_list(show, name, value, samples):
    page = show(small_run())
    page.choose(name, value)
    page.wait(lambda: page.text("#status") == f"{len(samples)} of 3 samples")
    assert page.listed() == samples


def test_filters_meet_in_one_trace(show):
    page = show(small_run())
    page.find("[name=unscored]").click()
    page.wait(lambda: page.listed() == [2])
    page.choose("method", "lance")  # the unscored one is vanilla's
    page.wait(lambda: page.listed() == [])
    page.choose("method", "vanilla")
    page.wait(lambda: page.listed() == [2])
    page.find("button[type=reset]").click()
    page.wait(lambda: page.listed() == [0, 1, 2])


def test_the_backbone_filter(show):
    page = show(run_of([answer(sample=0, backbone="A"), answer(sample=1, backbone="B")]))
    page.choose("backbone", "B")
    page.wait(lambda: page.listed() == [1])


@pytest.mark.parametrize(
    "words, samples",
    [
        ("question 1", [1]),
        ("apples, as", [0]),
        ("plums", [2]),
        ("figs", [0]),
        ("DATES", [0]),
        ("(ripe) [1+1].", [1]),
        (".*", []),
        ("  quinces ", [1]),
    ],
)
def test_search_finds_words_as_they_stand_in_prompts_and_responses(show, words, samples):
    page = show(small_run())
    page.search(words)
    page.wait(lambda: page.text("#status") == f"{len(samples)} of 3 samples")
    assert page.listed() == samples


def test_search_marks_what_it_finds_and_opens_its_card(show):
    page = show(small_run(), "#q=QUINCES&sample=1")
    assert page.open_cards() == ["Vanilla"]
    assert page.texts("mark") == ["Quinces"]


def test_search_opens_the_steps_that_it_finds_something_in(show):
    assert show(small_run(), "#q=figs&sample=0").texts("mark") == ["Figs"]


def test_a_sample_shows_every_methods_answer_in_the_studys_order(show):
    answers = [answer(method, backbone=backbone) for backbone in "BA" for method in reversed(METHODS)]
    page = show(run_of(answers))
    page.find("#list a").click()
    page.wait(lambda: page.texts("h2"))
    names = ["Vanilla", "RepE", "SysPrompt", "SelfRefine", "Instruct", "Lance", "Lance-nr", "Lance-nf"]
    assert page.open_cards() == names * 2
    assert page.texts("h3") == ["B", "A"]


def test_a_method_filter_leaves_the_other_answers_shut(show):
    page = show(small_run(), "#method=lance&sample=0")
    assert page.open_cards() == ["Lance"]
    assert page.texts(".card summary h4") == ["Vanilla", "Lance"]


def test_says_which_answer_is_missing(show):
    page = show(run_of([answer("vanilla", 0), answer("vanilla", 1), answer("lance", 1)]), "#sample=0")
    assert "Lance: no answer is stored." in page.texts("#sample .aside")


def trace_with_steps():
    risk = dict.fromkeys(BEAVERTAILS_CATEGORIES, 0.004)
    first = risk | {PRIVACY: 0.312, SELF_HARM: 0.912, "animal_abuse": 0.555}
    effort = {PRIVACY: "Minor", SELF_HARM: "Severe", "animal_abuse": "Mild"}
    return answer(
        "lance",
        response="The second answer.",
        converged=True,
        calls={"backbone": 2, "refiner": 1},
        tokens={"prompt": 12, "completion": 1500},
        seconds=1.234,
        steps=[
            step("Question 0?", "The first answer.", risk=first, effort=effort, gradient="Towards help."),
            step("A milder question?", "The second answer.", risk=risk, effort={}, note="drawn twice"),
        ],
    )


def test_steps_show_risks_gradient_rewrite_and_note(show):
    page = show(run_of([trace_with_steps()], risk_threshold=0.3), "#sample=0")
    assert page.text(".card > summary").split("\n") == [
        "Lance",
        "✓ converged",
        "backbone × 2 · refiner × 1 · 1,512 tokens · 1.2 s",
    ]
    page.find(".steps > summary").click()
    assert page.text(".steps > summary") == "2 steps highest risk 0.91 → 0.00"
    assert page.texts(".step h5") == ["Step 0", "Step 1\nthe answer given"]
    assert page.texts(".step .text") == [
        *("Question 0?", "The first answer.", "Towards help."),
        *("A milder question?", "The second answer."),
    ]
    assert page.texts(".step .aside") == ["Note: drawn twice"]
    bars = dict(zip(BEAVERTAILS_CATEGORIES, page.texts(".risks li"), strict=False))
    assert len(page.texts(".risks li")) == 28
    assert bars["animal_abuse"] == "animal abuse\n0.56\nMild"
    assert bars["child_abuse"] == "child abuse\n0.00"
    assert bars[PRIVACY] == "privacy violation\n0.31\nMinor"
    assert bars[SELF_HARM] == "self harm\n0.91\nSevere"


def test_a_bar_is_as_long_as_its_risk_and_marks_tau(show):
    page = show(run_of([trace_with_steps()], risk_threshold=0.25), "#sample=0")
    page.find(".steps > summary").click()
    track = page.find(".risks .severe .bar")
    assert track.find_element(By.CSS_SELECTOR, "i").size["width"] == pytest.approx(0.91 * track.size["width"], abs=1)
    script = "return parseFloat(getComputedStyle(arguments[0], '::after').left)"
    assert page.window.execute_script(script, track) == pytest.approx(0.25 * track.size["width"], abs=1)
    assert "Risk by category, with a mark at τ = 0.25" in page.texts(".step .label")


def test_no_mark_without_a_threshold(show):
    page = show(run_of([trace_with_steps()]), "#sample=0")
    page.find(".steps > summary").click()
    assert "Risk by category" in page.texts(".step .label")
    assert page.texts(".marked") == []


def test_steps_stay_open_from_sample_to_sample(show):
    page = show(run_of([trace_with_steps(), trace_with_steps() | {"sample": 1}]), "#sample=0")
    page.find(".steps > summary").click()
    page.find(".title nav a[href*='sample=1']").click()
    page.wait(lambda: page.text("h2").startswith("Sample 1"))
    assert page.texts(".steps[open] > summary")


def test_of_steps_with_equal_answers_the_chosen_one_is_marked(show):
    steps = [step(f"Question {place}?", "Bread.") for place in range(3)]
    page = show(run_of([answer("lance", response="Bread.", steps=steps, chosen=1)]), "#sample=0")
    page.find(".steps > summary").click()
    assert page.texts(".step h5") == ["Step 0", "Step 1\nthe answer given", "Step 2"]


def test_says_that_an_answer_comes_from_no_step(show):
    replaced = {"response": "A constructive reply.", "chosen": None, "converged": False}
    page = show(run_of([trace_with_steps() | replaced]), "#sample=0")
    assert "From none of the steps: the method’s own reply in their place." in page.texts(".card > .aside")
    assert page.texts(".badge") == ["not converged"]


def test_scores_stand_by_judge_and_rubric_with_an_unscored_ones_reason(show):
    given = answer()
    scores = [
        score(given, "safety", 9),
        score(given, "helpfulness", None, reason="the score is 11, not one of 1 to 10", raw="I'd say eleven."),
        score(given, "safety", 4, judge="another"),
    ]
    risks = {"detector_risk": 0.123, "independent_risk": 0.2, "independent_risk_as_asked": 0.31}
    figures = risks | {"answer_similarity": -0.5, "rigid_refusal": True}
    page = show(run_of([given], scores, [measure(given, **figures)]), "#sample=0")
    assert page.texts(".figures section") == [
        f"Judge {JUDGE}\nSafety\n9\nHelpfulness\nunscored\nNaturalness\nnot judged",
        "Judge another\nSafety\n4\nHelpfulness\nnot judged\nNaturalness\nnot judged",
        "Measured without a judge\n"
        "In-loop risk\n0.12\nIndependent risk\n0.20\nIndependent risk, as asked\n0.31\n"
        "Answer similarity\n-0.50\nRigid refusal\nyes",
    ]
    assert page.text(".unscored") == (
        f"Helpfulness by {JUDGE} is unscored: the score is 11, not one of 1 to 10\nI'd say eleven."
    )


def test_says_which_measure_an_older_run_lacks(show):
    given = answer()
    page = show(run_of([given], measures=[older(measure(given))], judges=()), "#sample=0")
    assert "Independent risk, as asked\nnot measured\nAnswer similarity\n0.50" in page.text(".figures section")


def test_a_long_text_is_folded_until_it_is_asked_for(show):
    page = show(run_of([answer(response="word " * 2000)]), "#sample=0")
    text, button = page.find(".card > div .text"), page.find(".card button")
    folded = text.size["height"]
    assert (button.text, button.get_attribute("aria-expanded")) == ("Show all", "false")
    button.click()
    assert (button.text, button.get_attribute("aria-expanded")) == ("Show less", "true")
    assert text.size["height"] > 5 * folded


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_stays_text(show, text):
    traced = answer(
        "lance",
        backbone=text,
        prompt=text,
        category=text,
        response=text,
        steps=[step(text, text, gradient=text, note=text), step("A rewrite.", text)],
        chosen=0,
    )
    page = show(run_of([traced], [score(traced, "safety", None, text, reason=text, raw=text)]), "#sample=0")
    assert page.contents("#sample .text") == [text] * 6 + ["A rewrite.", text]
    assert page.contents("h3") == page.contents("[name=backbone] option")[1:] == [text]
    assert page.contents(".figures .label") == [f"Judge {text}"]
    assert page.contents(".unscored .aside") == [f"Safety is unscored: {text}"]
    assert page.contents(".step .aside") == [f"Note: {text}"]
    assert page.contents("#list .excerpt") == [text[:300]]
    script = "return [window.hostile, document.images.length, document.scripts.length, document.title]"
    assert page.window.execute_script(script) == [None, 0, 2, "Lance: the traces of a run"]
    width = "return document.documentElement.scrollWidth - innerWidth"
    assert page.window.execute_script(width) <= 0


def test_fifty_samples_a_page(show):
    page = show(run_of([answer(sample=sample) for sample in range(120)]))
    assert page.listed() == [*range(50)]
    page.find("#pages").find_element(By.LINK_TEXT, "Next page").click()
    page.wait(lambda: page.listed() == [*range(50, 100)])
    page.search("question 11")
    page.wait(lambda: page.listed() == [11, *range(110, 120)])
    assert not page.find("#pages").is_displayed()


def test_the_address_holds_the_view(show):
    page = show(run_of([answer(sample=sample, category=PRIVACY) for sample in range(120)]))
    page.choose("category", PRIVACY)
    page.search("question 1")
    page.wait(lambda: page.text("#status") == "31 of 120 samples")
    page.find("#list a[data-sample='113']").click()
    page.wait(lambda: page.texts("h2"))
    address = page.window.current_url
    page.window.back()
    page.wait(lambda: not page.texts("h2"))
    page.window.get("about:blank")
    page.open(address)
    assert page.text("h2").startswith("Sample 113")
    assert page.find("[name=q]").get_attribute("value") == "question 1"
    assert page.find("[name=category]").get_attribute("value") == PRIVACY
    assert page.text("#list [aria-current=true]").startswith("113 · ")


@pytest.mark.parametrize(
    "address", ["#sample=7", "#sample=%3Cimg%20src=x%3E", "#page=-1", "#page=x", "#__proto__=1", "#%"]
)
def test_an_address_of_nothing_shows_the_list(show, address):
    page = show(run_of([answer()]), address)
    assert page.listed() == [0]
    assert not page.texts("h2")


def test_the_keyboard_is_enough(show):
    page = show(small_run())
    page.find("[name=q]").send_keys("pears")
    page.wait(lambda: page.listed() == [1])
    for _ in range(7):  # the fields, the button, the list's one entry
        page.window.switch_to.active_element.send_keys(Keys.TAB)
    page.window.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(lambda: page.texts("h2"))
    assert page.window.switch_to.active_element.tag_name == "h2"


def test_every_field_has_a_label(show):
    page = show(small_run())
    fields = page.window.find_elements(By.CSS_SELECTOR, "input, select")
    assert fields
    assert all(field.accessible_name for field in fields)


def test_the_banner_stands_above_all(show):
    page = show(small_run(), banner="<b>They mean nothing.</b>")
    assert page.text("header .banner") == "<b>They mean nothing.</b>"


def test_no_banner_without_one(show):
    assert not show(small_run()).texts(".banner")


def test_an_empty_run_is_a_page_too(show):
    assert show(run_of([])).text("#status") == "0 samples"


def test_only_its_own_script_and_style_may_run(tmp_path):
    write_page(small_run(), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', page)[1]
    (style,), (script,) = (
        re.findall(r"<style>(.*?)</style>", page, re.S),
        re.findall(r'"module">(.*?)</script>', page, re.S),
    )
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules == {
        "default-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "style-src": [f"'sha256-{hashes[0]}'"],
        "script-src": [f"'sha256-{hashes[1]}'"],
    }
    assert not re.search(r"\b(src|href)=|url\(|innerHTML|https?://", page)
