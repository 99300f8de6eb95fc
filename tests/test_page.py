"""The page of an evaluation: its structure, its numbers, and that no name breaks it."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from html_page import parse, table_rows
from PIL import Image

from keras_aploss import (
    ImageFiles,
    ImageSet,
    RunSettings,
    evaluate_embeddings,
    write_evaluation,
)
from keras_aploss.evaluation import Snapshot
from keras_aploss.images import SkippedImage
from keras_aploss.report import rank_queries
from keras_aploss.report.example_rankings import ExampleRankings
from keras_aploss.report.page import ClassRow, metric_name, write_page

ATTACK = "window.attacked=1"
NAMES = [
    f"<script>{ATTACK}</script>",
    f"\"'><img src=x onerror={ATTACK}>",
    f"</bdi></td></style><svg onload={ATTACK}>",
    "Brücke_über_die_Straße & 城/\u202egpj.exe &amp;",
]
HISTORY = [
    {"epoch": 1, "loss": 0.9, "seconds": 1.0},
    {"epoch": 2, "loss": 0.5, "val_map": 0.25, "val_recall_at_1": 0.75},
    {"epoch": 3, "loss": 1 / 3, "val_map": float("nan"), "val_recall_at_1": 1.0},
]


def draw_files(folder):
    """Three images of each class, in folders and files with such names."""
    paths, rng = [], np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        base = rng.integers(0, 256, (4, 4, 3))
        place = folder / name.replace("/", "_")
        place.mkdir()
        for number in range(3):
            pixels = np.clip(base + rng.normal(0, 30, base.shape), 0, 255)
            path = place / f"{number}\n<b onclick='{ATTACK}'>{label}.png"
            Image.fromarray(pixels.astype("uint8")).resize((48, 48)).save(path)
            paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report with names that attack it, and what it reports on."""
    root = tmp_path_factory.mktemp("files")
    paths = draw_files(root)
    skipped = [
        SkippedImage("<script>bad</script>.jpg", "the file is <b>empty</b>"),
        SkippedImage(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "too large"),
    ]
    labels = np.repeat(np.arange(4), 3)
    images = ImageSet(ImageFiles(paths, 32), labels, NAMES, skipped)
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(12, 3)).astype("float32") + np.eye(4)[labels, :3]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    snapshot = Snapshot(0, embeddings, evaluate_embeddings(embeddings, labels))
    others = evaluate_embeddings(embeddings[::-1], labels)
    folder = root / "report"
    write_evaluation(
        folder, images, snapshot, num_rows=3,
        results={"raw pixels": others, "model": snapshot.result}, history=HISTORY,
        facts={"Model": NAMES[1], "Data": str(root), "Command": "train 'a b'"},
        training=RunSettings(epochs=7, name=NAMES[0]),
    )  # fmt: skip
    return folder, images, snapshot


@pytest.fixture(scope="module")
def page(report):
    return parse((report[0] / "index.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_and_has_an_outline(page):
    assert page.first("html").attributes["lang"] == "en"
    viewport = page.first("meta", name="viewport").attributes["content"]
    assert viewport == "width=device-width, initial-scale=1"
    assert page.first("meta").attributes == {"charset": "utf-8"}
    levels = [
        int(node.tag[1]) for node in page.all() if re.fullmatch("h[1-6]", node.tag)
    ]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert (np.diff(levels) <= 1).all()
    titles = [node.text for node in page.all("h2")]
    assert titles == [
        "Metrics", "Precision and recall", "Training", "Classes",
        "Queries of many classes", "The worst queries", "The best queries",
        "Settings", "Left out",
    ]  # fmt: skip
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids)) == len(titles)
    links = [node.attributes["href"] for node in page.all("a")]
    assert links == [f"#{name}" for name in ids]


def test_nothing_runs_and_nothing_is_fetched(page, report):
    policy = next(n for n in page.all("meta") if "http-equiv" in n.attributes)
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    assert policy.attributes["content"].startswith("default-src 'none';")
    assert "script" not in policy.attributes["content"]
    foreign = {"script", "iframe", "object", "embed", "link", "base", "form", "use"}
    assert not foreign & {node.tag for node in page.all()}
    for node in page.all():
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data", "style"):
                assert value.startswith(("data:image/jpeg;base64,", "#"))
    assert "http" not in "".join(
        value
        for node in page.all()
        for name, value in node.attributes.items()
        if name not in ("src", "alt", "title")
    )


def test_images_are_inside_and_described(page, report):
    images = list(page.all("img"))
    assert len(images) == 3 * 3 * 9
    for image in images:
        assert image.attributes["alt"].startswith(("Query: ", "Result "))
        data = image.attributes["src"].partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.size == (32, 32)


def test_names_are_texts(page):
    table = page.first("section", id="classes").first("table")
    assert sorted(row[0] for row in table_rows(table)[1:]) == sorted(NAMES)
    queries = {node.text for node in page.all("bdi", class_="class")}
    assert queries == set(NAMES)
    files = {node.text for node in page.all("bdi", class_="file soft")}
    assert f"0␊<b onclick='{ATTACK}'>3.png" in files
    facts, training = page.first("section", id="settings").all("table")
    assert dict(table_rows(facts))["Model"] == NAMES[1]
    assert dict(table_rows(training))["name"] == NAMES[0]
    assert table_rows(page.first("section", id="left-out").first("table")) == [
        ["path", "reason"],
        ["<script>bad</script>.jpg", "the file is <b>empty</b>"],
        ["caf�.jpg", "too large"],
    ]


def values_of(table):
    """By row and column name, the whole numbers and the texts of the cells."""
    names, *rows = list(table.all("tr"))
    columns = [cell.text for cell in names.children]
    found = {}
    for row in rows:
        first, *cells = row.children
        for column, cell in zip(columns[1:], cells, strict=True):
            for data in cell.all("data"):
                value = float(data.attributes["value"])
                assert data.text == f"{value:.3f}"
                found[first.text, column] = value
    return found


def test_numbers_are_those_of_the_file(page, report):
    figures = json.loads((report[0] / "evaluation.json").read_text())
    shown, everything = list(page.first("section", id="metrics").all("table"))
    wanted = {
        (metric_name(metric), name): value
        for name, metrics in figures["metrics"].items()
        for metric, value in metrics.items()
    }
    assert values_of(everything) == wanted
    assert len(wanted) == 2 * 14
    headline = values_of(shown)
    assert headline.items() <= wanted.items()
    assert [row for row, column in headline if column == "model"] == [
        "mAP", "recall@1", "recall@5", "recall@10", "MAP@R",
    ]  # fmt: skip

    curve = page.first("section", id="precision-and-recall")
    assert values_of(curve.first("table")) == {
        (f"{place / 100:.1f}", name): values[place]
        for name, values in figures["precision_at_recall"].items()
        for place in range(0, 101, 10)
    }
    means = curve.first("ul").all("data")
    assert [float(node.attributes["value"]) for node in means] == [
        figures["metrics"][name]["map"] for name in ("model", "raw pixels")
    ]

    classes = values_of(page.first("section", id="classes").first("table"))
    assert classes == {(row["name"], "mAP"): row["map"] for row in figures["classes"]}
    assert list(classes.values()) == sorted(classes.values())

    precision = np.array(figures["average_precision"])
    for name, expected in (
        ("the-worst-queries", np.sort(precision)[:3]),
        ("the-best-queries", np.sort(precision)[::-1][:3]),
    ):
        articles = page.first("section", id=name).all("article")
        found = [
            float(article.first("p").first("data").attributes["value"])
            for article in articles
        ]
        np.testing.assert_array_equal(found, expected)


def test_the_training_is_drawn_of_what_its_history_holds(page):
    section = page.first("section", id="training")
    assert table_rows(section.first("table")) == [
        ["epoch", "loss", "mAP", "recall@1"],
        ["1", "0.900", "–", "–"],
        ["2", "0.500", "0.250", "0.750"],
        ["3", "0.333", "–", "1.000"],
    ]
    last = section.first("ul").all("data")
    assert [float(node.attributes["value"]) for node in last] == [1 / 3, 0.25, 1.0]
    curves = {curve.first("title").text: curve for curve in section.all("g")}
    assert {name: len(list(curve.all("circle"))) for name, curve in curves.items()} == {
        "loss": 3, "mAP": 1, "recall@1": 2,
    }  # fmt: skip
    label = section.first("svg", role="img").attributes["aria-label"]
    assert "Training of 3 epochs. At its end: loss 0.333, mAP 0.250" in label


def test_settings_say_what_was_run(page):
    facts, training = (
        dict(table_rows(table))
        for table in page.first("section", id="settings").all("table")
    )
    assert facts["Command"] == "train 'a b'"
    assert re.match(
        r"keras_aploss \d.*, Keras 3\.\S+, tensorflow 2\.", facts["Versions"]
    )
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", facts["Written"])
    assert training["epochs"] == "7"
    assert training["weights"] == "–"


def report_of(folder, labels, **options):
    """A report on random embeddings; the classes are named by their numbers."""
    rng = np.random.default_rng(0)
    labels = np.asarray(labels)
    embeddings = rng.normal(size=(len(labels), 16)).astype("float32")
    embeddings += 2 * rng.normal(size=(labels.max() + 2, 16)).astype("float32")[labels]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = [f"class {label}" for label in range(labels.max() + 1)]
    images = ImageSet(np.zeros((len(labels), 8, 8, 3), "uint8"), labels, names)
    queries = options.get("queries")
    result = evaluate_embeddings(embeddings, labels, queries)
    write_evaluation(folder, images, Snapshot(0, embeddings, result), **options)
    figures = json.loads((folder / "evaluation.json").read_text())
    return parse((folder / "index.html").read_text()), figures


@pytest.mark.parametrize("num_classes", [2, 40])
def test_a_bar_for_each_of_few_classes(tmp_path, num_classes):
    page, figures = report_of(tmp_path, np.repeat(np.arange(num_classes), 3))
    titles = [node.text for node in page.all("h2")]
    assert "Training" not in titles
    assert "Left out" not in titles
    section = page.first("section", id="classes")
    assert [node.text for node in section.all("h3")] == ["All classes, the worst first"]
    rows = list(section.first("tbody").all("tr"))
    assert len(rows) == num_classes
    for row, wanted in zip(rows, figures["classes"][::-1], strict=True):
        length = float(row.first("rect", class_="bar").attributes["width"])
        assert length == pytest.approx(100 * wanted["map"], abs=0.01)
    assert not list(section.all("details"))


@pytest.mark.parametrize("num_classes", [41, 1200])
def test_of_many_classes_both_ends_and_their_distribution(tmp_path, num_classes):
    page, figures = report_of(tmp_path, np.repeat(np.arange(num_classes), 2))
    section = page.first("section", id="classes")
    assert [node.text for node in section.all("h3")] == [
        "The 20 worst classes", "The 20 best classes",
    ]  # fmt: skip
    worst, best, everything = (table_rows(table)[1:] for table in section.all("table"))
    names = [row["name"] for row in figures["classes"]]
    assert len(names) == num_classes
    assert [row[0] for row in worst] == names[::-1][:20]
    assert [row[0] for row in best] == names[:20]
    assert [row[0] for row in everything] == names[::-1]
    chart = section.first("svg", role="img")
    said = [rect.first("title").text for rect in chart.all("rect")]
    counts = [int(re.search(r": (\d+) classes", text)[1]) for text in said]
    values = [row["map"] for row in figures["classes"]]
    wanted = np.histogram(values, 20, (0, 1))[0]
    assert counts == wanted[wanted > 0].tolist()
    assert (tmp_path / "index.html").stat().st_size < 2**20


def test_queries_that_rank_a_database(tmp_path):
    labels = [0, 1, 2, 0, 0, 1, 2, -1, 1]
    page, _ = report_of(tmp_path, labels, queries=[0, 1, 2])
    assert page.first("p").text == (
        "3 queries of 3 classes. Each ranks the 6 images of the database."
    )
    assert all("Result 7" not in node.attributes["alt"] for node in page.all("img"))


def test_every_image_ranks_the_others(page):
    text = "12 queries of 4 classes. Each ranks the 11 other images."
    assert page.first("header").first("p").text == text


@pytest.fixture(scope="module")
def owls():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1, 2, 2, -1, 0])
    pixels = rng.integers(0, 256, (8, 12, 12, 3), "uint8")
    embeddings = rng.normal(size=(8, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return ImageSet(pixels, labels, ["crow", "jay", "<i>owl"]), embeddings


def rankings_of(images, embeddings, queries):
    return rank_queries(
        images.images, images.labels, embeddings, queries,
        average_precision=np.linspace(0, 1, 8), class_names=images.class_names,
    )  # fmt: skip


def shown(folder, image_set, queries, rows):
    """The section of some queries, on a page of its own."""
    results = {"model": evaluate_embeddings(np.eye(8), image_set.labels)}
    write_page(
        folder / "page.html", image_set, results, [ClassRow("crow", 1.0, 1)],
        [ExampleRankings("Queries", queries, rows)],
        queries=None, history=(), facts={}, training={},
    )  # fmt: skip
    page = parse((folder / "page.html").read_text(encoding="utf-8"))
    return page.first("section", id="queries")


def test_results_are_in_order_and_say_what_they_are(owls, tmp_path):
    image_set, embeddings = owls
    queries = [4, 1]
    rows = {"": rankings_of(image_set, embeddings, queries)}
    page = shown(tmp_path, image_set, queries, rows)
    names = [*image_set.class_names, "distractor"]
    for query, article in zip(queries, page.all("article"), strict=True):
        name = names[image_set.labels[query]]
        caption = article.first("figure", class_="query")
        assert caption.first("img").attributes["alt"] == f"Query: {name}"
        assert caption.text == name
        precision = article.first("p").first("data").attributes["value"]
        assert float(precision) == pytest.approx(query / 7)
        similarity = embeddings @ embeddings[query]
        order = [i for i in np.argsort(-similarity) if i != query]
        assert len(order) == 7
        for rank, (index, item) in enumerate(
            zip(order, article.all("li"), strict=True), 1
        ):
            label = image_set.labels[index]
            is_right = label == image_set.labels[query]
            assert item.attributes["class"] == ("right" if is_right else "wrong")
            assert item.first("span", class_="mark").text == ("✓" if is_right else "✗")
            verdict = "relevant" if is_right else "not relevant"
            alt = item.first("img").attributes["alt"]
            assert alt == f"Result {rank}, {verdict}: {names[label]}"
            found = item.first("data")
            assert float(found.attributes["value"]) == pytest.approx(similarity[index])
            assert found.text == f"{similarity[index]:.2f}"
            said = [node.text for node in item.all("bdi")]
            assert said == ([] if is_right else [names[label]])


def test_before_is_above_after(owls, tmp_path):
    image_set, embeddings = owls
    rows = {
        name: rankings_of(image_set, of_model, [0, 2])
        for name, of_model in (("before", embeddings[::-1]), ("after", embeddings))
    }
    page = shown(tmp_path, image_set, [0, 2], rows)
    for article in page.all("article"):
        texts = [p.text for p in article.all("p")]
        assert [text.split(":")[0] for text in texts] == ["before", "after"]
        assert len(list(article.all("ol"))) == 2
        assert len(list(article.all("figure", class_="query"))) == 1


def test_files_are_named_with_their_query(owls, tmp_path):
    image_set, embeddings = owls

    class Files(list):
        """What `ImageFiles` is, without the files."""

    files = image_set._replace(images=Files(image_set.images))
    files.images.paths = [f"/data/<b>/{number}.jpg" for number in range(8)]
    rows = {"": rankings_of(files, embeddings, [3])}
    page = shown(tmp_path, files, [3], rows)
    assert page.first("bdi", class_="file soft").text == "3.jpg"
    titles = [image.attributes["title"] for image in page.all("img")]
    assert titles[0] == "/data/<b>/3.jpg"
    order = [i for i in np.argsort(-(embeddings @ embeddings[3])) if i != 3]
    assert [title.split(": ")[1] for title in titles[1:]] == [
        f"/data/<b>/{index}.jpg" for index in order
    ]


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def show(browser, width, scheme):
    """Resize the page and return its screenshot."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    return np.asarray(picture.convert("RGB"), float)


def assert_no_sideways_scrolling(browser):
    script = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    content, window = browser.execute_script(script)
    assert content <= window


@pytest.mark.slow
def test_a_browser_shows_the_page_from_the_disk(browser, report):
    browser.get((report[0] / "index.html").as_uri())
    light, dark = show(browser, 1200, "light"), show(browser, 1200, "dark")
    assert light[:40].mean() > 250
    assert dark[:40].mean() < 40
    assert dark.std() > 20
    for width in (1200, 700, 360):
        show(browser, width, "light")
        assert_no_sideways_scrolling(browser)
    assert browser.execute_script("return window.attacked === undefined")
    assert browser.execute_script("return document.scripts.length") == 0
    loaded = "return [...document.images].map(image => image.naturalWidth)"
    assert set(browser.execute_script(loaded)) == {32}
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_details_open_on_a_click(browser, report):
    browser.get((report[0] / "index.html").as_uri())
    for details in browser.find_elements("css selector", "details"):
        content = details.find_element("css selector", ":scope > :nth-child(2)")
        assert not content.is_displayed()
        details.find_element("css selector", "summary").click()
        assert content.is_displayed()
        assert content.text
    for width in (1200, 360):
        show(browser, width, "dark")
        assert_no_sideways_scrolling(browser)


@pytest.mark.slow
def test_links_lead_to_their_sections(browser, report):
    browser.get((report[0] / "index.html").as_uri())
    show(browser, 1200, "light")
    browser.find_element("link text", "The best queries").click()
    heading = browser.find_element("css selector", "#the-best-queries h2")
    script = "return arguments[0].getBoundingClientRect().top"
    assert -1 <= browser.execute_script(script, heading) < 500
