"""Translation of a finished page: texts, attributes, sentences, and what is left in English."""

import pytest

from reporting.page_languages.html_tree import parse_html, write_html
from reporting.page_languages.page_strings import NumberFormat, PageStrings, StringsFile
from reporting.page_languages.translated_page import page_marks, translate_page

NUMBERS = NumberFormat(decimal=",", group=".", percent="% {n}", between="; ")


def translate(html: str, **texts: str):
    strings = PageStrings("eu", StringsFile(name="euskara", numbers=NUMBERS, texts=texts))
    return translate_page(html, strings)


def test_texts_are_translated_and_the_markup_stays() -> None:
    page = translate(
        '<!doctype html>\n<html lang="en"><h2 id="a"\n class=x>Scores</h2><!-- No --><br>\n',
        Scores="Puntuazioak",
    )
    assert page.html == (
        '<!doctype html>\n<html lang="eu"><h2 id="a"\n class=x>Puntuazioak</h2><!-- No --><br>\n'
    )
    assert (page.num_translated, len(page.texts)) == (1, 1)


def test_a_text_without_entry_is_marked_counted_and_listed() -> None:
    page = translate(
        "<p>No entry</p><p>Known. No 2 entries.</p><p>Known. No 3 entries.</p>",
        **{"Known.": "Bai."},
    )
    assert page.html == (
        '<p lang="en">No entry</p><p>Bai. <span lang="en">No 2 entries.</span></p>'
        '<p>Bai. <span lang="en">No 3 entries.</span></p>'
    )
    assert (page.num_translated, len(page.texts)) == (1, 3)  # numbers make no other text
    assert list(page.untranslated.values()) == ["No entry", "No 2 entries."]


def test_elements_inside_a_sentence_move_with_their_words() -> None:
    page = translate(
        '<p>See the <a href="x">table</a> of <em>runs</em> (<code>--set the</code>).</p>',
        **{"See the <1>table</1> of <2>runs</2> (<3/>).": "<2>Exekuzioen</2> <1>taula</1> (<3/>)."},
    )
    assert page.html == (
        '<p><em>Exekuzioen</em> <a href="x">taula</a> (<code>--set the</code>).</p>'
    )


def test_elements_are_numbered_anew_in_every_sentence() -> None:
    texts = {"Is <1>one</1>.": "<1>Bat</1> da.", "Is <1>two</1>.": "<1>Bi</1> dira."}
    page = translate("<p>Is <b>one</b>. Is <i>two</i>.</p>", **texts)
    assert page.html == "<p><b>Bat</b> da. <i>Bi</i> dira.</p>"


def test_elements_at_the_ends_are_translated_apart() -> None:
    page = translate(
        '<li><span class="badge">open</span> It holds <small>(so far)</small></li>',
        **{"open": "irekia", "It holds": "Hala da", "(so far)": "(oraingoz)"},
    )
    assert page.html == (
        '<li><span class="badge">irekia</span> Hala da <small>(oraingoz)</small></li>'
    )


def test_visible_attributes_are_translated_and_others_are_not() -> None:
    page = translate(
        '<div role="img" aria-label="Runs: 2.5 %" class="Runs"><img alt="Runs" title="None"></div>',
        **{"Runs": "Exekuzioak", "Runs: {n:percent}": 'Exekuzio "{n}"'},
    )
    assert page.html == (
        '<div role="img" aria-label="Exekuzio &quot;% 2,5&quot;" class="Runs">'
        '<img alt="Exekuzioak" title="None"></div>'
    )
    assert list(page.untranslated.values()) == ["None"]


@pytest.mark.parametrize(
    "html",
    [
        "<script>const on = a && 'on';</script>",
        "<style>on > on { color: on }</style>",
        "<code>on</code>",
        "<pre>on 1.5</pre>",
        "<bdi>on</bdi>",
        '<p lang="en">on</p>',
        '<td translate="no" title="on">on</td>',
    ],
)
def test_code_data_and_other_languages_stay(html: str) -> None:
    page = translate(html, on="bai")
    assert page.html == html
    assert not page.texts


def test_names_are_translated_only_if_they_are_known() -> None:
    page = translate("<td data-name>on</td><th data-name>linear <i>x</i></th>", on="bai")
    assert page.html == "<td>bai</td><th>linear <i>x</i></th>"
    assert not page.texts


def test_cells_of_tables_keep_their_number_for_sorting() -> None:
    page = translate("<td>1,234.5</td><td data-value='7'>2.5</td><td>5</td><td>on</td>", on="bai")
    assert page.html == (
        "<td data-value=\"1,234.5\">1.234,5</td><td data-value='7'>2,5</td><td>5</td><td>bai</td>"
    )


def test_drawings_keep_their_case_and_have_no_elements_in_texts() -> None:
    svg = (
        '<svg viewBox="0 0 1 1"><linearGradient id="a"><stop/></linearGradient>'
        "<text>share of x</text><text>linear</text><title>Tip</title></svg>"
    )
    page = translate(svg, Tip="Oharra")
    assert page.html == (
        '<svg viewBox="0 0 1 1"><linearGradient id="a"><stop/></linearGradient>'
        '<text lang="en">share of x</text><text>linear</text><title>Oharra</title></svg>'
    )


def test_special_characters_are_escaped() -> None:
    page = translate("<p>a &lt; b &amp; c</p>", **{"a < b & c": "c > b & a"})
    assert page.html == "<p>c &gt; b &amp; a</p>"
    source = "<p>1 &lt; 2<br/>&amp;</p>"
    assert write_html(parse_html(source)) == source


def test_english_pages_have_no_marks() -> None:
    assert (page_marks("en").data, page_marks("en").name) == ("", "")
    assert page_marks("eu").data == ' translate="no"'
