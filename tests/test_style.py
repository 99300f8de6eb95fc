"""Colours of the page: contrasts by the formula of WCAG 2."""

import importlib.resources
import re

import pytest

TEMPLATES = importlib.resources.files("keras_aploss.report") / "templates"
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")


def palettes():
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    return {
        scheme: dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        for scheme, block in zip(("light", "dark"), blocks, strict=True)
    }


def luminance(color):
    values = [byte / 255 for byte in bytes.fromhex(color[1:])]
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values
    ]
    return sum(map(float.__mul__, [0.2126, 0.7152, 0.0722], linear))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_wcag():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_lines_and_bars_stand_out(scheme):
    colors = palettes()[scheme]
    for name in ("ink", "soft", "link", "right", "wrong"):
        assert contrast(colors[name], colors["paper"]) >= 4.5, name
    for name in ("bar", *(f"curve-{index}" for index in range(4))):
        assert contrast(colors[name], colors["paper"]) >= 3, name
    assert contrast(colors["bar"], colors["rail"]) >= 3


def test_every_colour_is_in_both_schemes_and_used():
    light, dark = palettes().values()
    assert set(light) == set(dark)
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) == set(light)


def test_the_style_sheet_fetches_nothing():
    assert not re.search(r"url\(|@import|@font-face|</", STYLE)
