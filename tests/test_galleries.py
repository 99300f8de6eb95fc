"""Queries on the page: right and wrong results, by colour and sign."""

import numpy as np
import pytest
from html_page import parse

from keras_aploss import ImageSet
from keras_aploss.report import rank_queries
from keras_aploss.report.galleries import Gallery, show_gallery
from keras_aploss.report.markup import element, to_html


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1, 2, 2, -1, 0])
    pixels = rng.integers(0, 256, (8, 12, 12, 3), "uint8")
    embeddings = rng.normal(size=(8, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return ImageSet(pixels, labels, ["crow", "jay", "<i>owl"]), embeddings


def read(images, gallery):
    return parse(to_html(element("div", *show_gallery(gallery, images))))


def rankings_of(images, embeddings, queries):
    return rank_queries(
        images.images, images.labels, embeddings, queries,
        average_precision=np.linspace(0, 1, 8), class_names=images.class_names,
    )  # fmt: skip


def test_results_are_in_order_and_say_what_they_are(images):
    image_set, embeddings = images
    queries = [4, 1]
    rows = {"": rankings_of(image_set, embeddings, queries)}
    page = read(image_set, Gallery("Queries", queries, rows))
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


def test_before_is_above_after(images):
    image_set, embeddings = images
    rows = {
        name: rankings_of(image_set, turn * embeddings, [0, 2])
        for name, turn in (("before", np.eye(4)[0]), ("after", 1.0))
    }
    page = read(image_set, Gallery("Queries", [0, 2], rows))
    for article in page.all("article"):
        texts = [p.text for p in article.all("p")]
        assert [text.split(":")[0] for text in texts] == ["before", "after"]
        assert len(list(article.all("ol"))) == 2
        assert len(list(article.all("figure", class_="query"))) == 1


def test_files_are_named_with_their_query(images):
    image_set, embeddings = images

    class Files(list):
        """What `ImageFiles` is, without the files."""

    files = image_set._replace(images=Files(image_set.images))
    files.images.paths = [f"/data/<b>/{number}.jpg" for number in range(8)]
    gallery = Gallery("Queries", [3], {"": rankings_of(files, embeddings, [3])})
    page = read(files, gallery)
    assert page.first("bdi", class_="file soft").text == "3.jpg"
    titles = [image.attributes["title"] for image in page.all("img")]
    assert titles[0] == "/data/<b>/3.jpg"
    order = [i for i in np.argsort(-(embeddings @ embeddings[3])) if i != 3]
    assert [title.split(": ")[1] for title in titles[1:]] == [
        f"/data/<b>/{index}.jpg" for index in order
    ]
