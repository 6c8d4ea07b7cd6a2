"""The page: what it shows for what is chosen, and all of it clicked through in a browser that may ask this server alone."""

import contextlib
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_bert4rec import Bert4RecConfig, Bert4RecForCausalLM, Bert4RecForMaskedLM, Bert4RecTokenizer
from hf_bert4rec.cli import main
from hf_bert4rec.scoring import RarityScorer
from hf_bert4rec.web import TrialPage, check_gradio

NASTY = '<b>Sharp</b> {{7}} ${1} `2` & "quoted"'
TITLES = ["The Matrix", "Matrix Reloaded", "Amélie", NASTY, *(f"Film {number}" for number in range(4, 40))]
NOTHING = {"history": [], "denied": []}
NO_OTHERS = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def recommender_of(num_items=40, titles=TITLES, kind=Bert4RecForMaskedLM, **options):
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "intermediate_size": 32, "initializer_range": 0.5, "max_position_embeddings": 6}
    model = kind(Bert4RecConfig(vocab_size=num_items + 3, **(tiny | options))).eval()
    tokenizer = Bert4RecTokenizer.from_items([f"id{number}" for number in range(num_items)], titles=titles)
    return pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def recommender():
    return recommender_of()


@pytest.fixture(scope="module")
def trial(recommender):
    return TrialPage(recommender)


def ids_of(html):
    return re.findall(r"<td>(id\d+)</td>", html)


def listed(recommender, history, denied=(), strength=0.0, top_k=10):
    """The ids that another pipeline lists whose scorer is shifted."""
    other = pipeline("next-item-recommendation", model=recommender.model, tokenizer=recommender.tokenizer)
    other.scorer = RarityScorer(other.scorer, strength)
    ids = [f"id{token - 3}" for token in history]
    answer = other(ids, top_k=top_k, denied_items=[f"id{token - 3}" for token in denied])
    return [entry["item_id"] for entry in answer["recommendations"]]


@pytest.mark.parametrize("strength", [-1.0, 0.0, 1.0])
def test_the_list_is_that_of_the_pipeline_and_what_is_denied_leaves_it(recommender, trial, strength):
    before = ids_of(trial.lists({"history": [5, 9, 5], "denied": []}, strength)[1])
    assert before == listed(recommender, [5, 9, 5], strength=strength)
    assert len(before) == 10 and not {"id2", "id6"} & set(before)
    denied = [int(item_id[2:]) + 3 for item_id in (before[0], before[4])]
    _, recommendations, undo = trial.lists({"history": [5, 9, 5], "denied": denied}, strength)
    assert ids_of(recommendations) == listed(recommender, [5, 9, 5], denied, strength)
    assert ids_of(recommendations)[:8] == [*before[1:4], *before[5:]]
    assert re.findall(r"data-action=allow data-value=(\d+)", undo) == list(map(str, denied))


def test_the_slider_moves_the_list_towards_popular_and_rare_items(trial):
    def mean_place(strength):
        _, recommendations, _ = trial.lists({"history": [5, 9], "denied": []}, strength)
        return np.mean([int(item_id[2:]) for item_id in ids_of(recommendations)])

    places = [mean_place(strength) for strength in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert places == sorted(places) and places[0] < places[2] < places[4]
    assert "+0.5 × ln(place)" in trial.lists({"history": [5], "denied": []}, 0.5)[1]


def test_the_slider_of_a_page_leaves_the_pipeline_alone(recommender, trial):
    before = recommender(["id2"])
    trial.lists({"history": [5], "denied": []}, 1.0)
    assert recommender(["id2"]) == before


def test_an_empty_history_gets_what_is_popular_and_the_page_says_so(trial):
    history, recommendations, denied = trial.lists(NOTHING, 1.0)
    assert "The history is empty" in history and denied == ""
    assert "these are the most popular items; the slider does not change them" in recommendations
    assert ids_of(recommendations) == [f"id{number}" for number in range(10)]
    assert "Score" not in recommendations
    assert ids_of(trial.lists({"history": [], "denied": [3]}, 0.0)[1])[0] == "id1"


def test_the_history_shows_the_weights_in_its_order(trial):
    history, _, _ = trial.lists({"history": [5, 9, 5], "denied": []}, 0.0)
    names = re.findall(r"<td>([^<]+) <span class=quiet>(id\d+)</span></td>", history)
    assert names == [("Amélie", "id2"), ("Film 6", "id6"), ("Amélie", "id2")]
    weights = [float(weight) for weight in re.findall(r" value=([\d.]+) title", history)]
    assert weights == pytest.approx(trial.weigh(np.array([5, 9, 5])).tolist(), abs=1e-4)
    heaviest = names[int(np.argmax(weights))][0]
    assert f"Weighed most: {heaviest}." in history


def test_a_history_longer_than_the_model_reads_is_said_to_be(trial):
    assert (
        "The model reads the newest 5; older ones weigh nothing."
        in trial.lists({"history": list(range(3, 9)), "denied": []}, 0.0)[0]
    )
    assert "The model reads" not in trial.lists({"history": list(range(3, 8)), "denied": []}, 0.0)[0]


def test_a_catalogue_that_is_used_up_is_said_to_be():
    trial = TrialPage(recommender_of(3, titles=None))
    assert ids_of(trial.lists({"history": [3], "denied": [5]}, 0.0)[1]) == ["id1"]
    assert "Nothing is left" in trial.lists({"history": [3, 4], "denied": [5]}, 0.0)[1]


@pytest.mark.parametrize(
    "options",
    [
        {"titles": None},
        {"titles": {"id30": "Only this"}},
        {"kind": Bert4RecForCausalLM},
        {"norm_position": "pre", "reading": "both"},
        {"num_attention_heads": 1, "num_hidden_layers": 1, "tie_word_embeddings": False},
    ],
)
def test_any_model_is_shown(options):
    recommender = recommender_of(**options)
    trial = TrialPage(recommender)
    history, recommendations, denied = trial.lists({"history": [4, 7], "denied": [8]}, 0.3)
    assert ids_of(recommendations) == listed(recommender, [4, 7], [8], 0.3)
    assert "id1" in history and "id5" in denied
    assert ("<th scope=col>Title" in recommendations) is (recommender.tokenizer.titles is not None)


def test_titles_are_neither_html_nor_templates(trial):
    shown = "".join([*trial.lists({"history": [6], "denied": [6]}, 0.0), trial.matches("sharp")])
    assert "&lt;b&gt;Sharp&lt;/b&gt;" in shown
    assert not re.search(r"<b>|[{}$`]", shown)


def test_a_search_shows_few_and_says_what_it_found(trial):
    found = trial.matches("film")
    assert len(re.findall("<button", found)) == 8 and "The 8 most popular" in found
    assert re.findall(r"data-value=(\d+)", trial.matches(" matrix ")) == ["3", "4"]
    assert "most popular" not in trial.matches("matrix")
    assert "No title and no id holds &#x27;nothing&#x27;" in trial.matches("nothing")
    assert trial.matches("") == trial.matches("  ") == ""


def test_clicks_change_what_is_chosen(trial):
    chosen = {"history": [5, 9, 5], "denied": [7]}
    assert trial.after(chosen, "add", 4) == {"history": [5, 9, 5, 4], "denied": [7]}
    assert trial.after(chosen, "remove", 0) == {"history": [9, 5], "denied": [7]}
    assert trial.after(chosen, "deny", 4) == {"history": [5, 9, 5], "denied": [7, 4]}
    assert trial.after(chosen, "allow", 7) == {"history": [5, 9, 5], "denied": []}
    assert chosen == {"history": [5, 9, 5], "denied": [7]}
    with pytest.raises(ValueError, match="There is no action 'fly'"):
        trial.after(chosen, "fly", 1)


@pytest.mark.parametrize("token", [0, 1, 43, -1, "5", None])
def test_what_is_no_item_is_refused(trial, token):
    with pytest.raises(ValueError, match="token_ids must be tokens of items"):
        trial.lists({"history": [token], "denied": []}, 0.0)


def test_more_than_a_page_holds_is_refused(trial):
    trial.lists({"history": [5] * 1000, "denied": []}, 0.0)
    with pytest.raises(ValueError, match="A page holds at most 1,000 items; remove some"):
        trial.lists({"history": [5] * 1001, "denied": []}, 0.0)


def test_without_gradio_the_command_that_installs_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'hf_bert4rec\[web\]'"):
        check_gradio()
    for command in (["web", "run"], ["serve", "run", "--web"], ["push", "run", "films", "--space"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "pip install 'hf_bert4rec[web]'" in said and said.count("\n") == 1


def test_the_command_refuses_in_one_line_what_it_cannot_do(tmp_path, capsys, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'hf_bert4rec[web]'")
    monkeypatch.delenv("HF_BERT4REC_TOKEN", raising=False)
    for arguments, message in (
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by others, so a token is needed"),
        (["--port", "99999"], "port is 99999"),
        (["--token", "a b"], "The token must be ASCII text without spaces"),
        ([], "There is no folder"),
    ):
        assert main(["web", str(tmp_path / "none"), "--port", "0", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"hf-bert4rec web: {message}") and said.count("\n") == 1


@contextlib.contextmanager
def served(app):
    """Address of an application that runs in a thread."""
    import uvicorn

    from hf_bert4rec.serving import listen

    with listen("127.0.0.1", 0, None) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(recommender):
    """The page beside the interface, as `serve --web` has it, behind a token."""
    for name in ("gradio", "fastapi", "prometheus_client", "uvicorn"):
        pytest.importorskip(name, reason=f"the page needs {name}: pip install 'hf_bert4rec[web,serve]'")
    from hf_bert4rec.serving import create_app
    from hf_bert4rec.web import mount_page, web_page

    app = create_app(recommender, token="secret")
    mount_page(app, web_page(recommender, name="films"), "/web")
    with served(app) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright: pip install it")
    if CHROMIUM is None:
        pytest.skip("there is no chromium to click through the page with; install Debian's package chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", NO_OTHERS])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page once it is shown. It may ask nobody but its server, and nothing may go wrong in it."""
    context = browser.new_context(http_credentials={"username": "any", "password": "secret"})
    wrong = []

    page = context.new_page()
    page.on("request", lambda asked: asked.url.startswith((address, "data:")) or wrong.append(f"asked {asked.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda found: found.status >= 400 and wrong.append(f"{found.status} {found.url}"))
    page.goto(f"{address}/web/")
    page.get_by_role("button", name="Deny").first.wait_for()
    yield page
    assert page.get_by_text("Error", exact=True).count() == 0
    context.close()
    assert wrong == []


def shown_ids(page):
    return page.locator("tr:has(button[data-action=deny]) td:nth-child(3)").all_inner_texts()


def waits_for(page, ids):
    """Until the recommendations are these."""
    script = """ids => JSON.stringify([...document.querySelectorAll('tr:has(button[data-action=deny]) td:nth-child(3)')]
        .map(cell => cell.innerText)) === JSON.stringify(ids)"""
    page.wait_for_function(script, arg=ids)
    assert shown_ids(page) == ids


def test_a_visitor_clicks_through_the_page(page, recommender):
    popular = [f"id{number}" for number in range(10)]
    search = page.get_by_label("Search titles and ids")
    waits_for(page, popular)
    search.fill("matr")
    page.get_by_role("button", name="Add Matrix Reloaded").click()
    waits_for(page, listed(recommender, [4]))
    assert search.input_value() == ""
    search.fill("AMELIE")
    page.get_by_role("button", name="Add Amélie").wait_for()
    search.press("Enter")
    waits_for(page, listed(recommender, [4, 5]))
    search.fill("sharp")
    page.get_by_role("button", name="Add").filter(has_text=NASTY).click()
    waits_for(page, listed(recommender, [4, 5, 6]))
    assert page.get_by_text("Weighed most:").count() == 1
    assert len(page.locator("meter").all()) == 3 and page.locator("b").count() == 0

    first = int(listed(recommender, [4, 5, 6])[0][2:]) + 3
    page.locator("button[data-action=deny]").first.click()
    waits_for(page, listed(recommender, [4, 5, 6], [first]))
    assert f"id{first - 3}" not in shown_ids(page)

    page.get_by_role("slider").press("End")
    waits_for(page, listed(recommender, [4, 5, 6], [first], 1.0))
    page.get_by_role("slider").press("Home")
    waits_for(page, listed(recommender, [4, 5, 6], [first], -1.0))

    page.get_by_role("button", name="Allow").press("Enter")
    waits_for(page, listed(recommender, [4, 5, 6], [], -1.0))
    page.get_by_role("button", name="Remove Amélie from the history").press("Enter")
    waits_for(page, listed(recommender, [4, 6], [], -1.0))
    assert page.evaluate("document.activeElement.innerText") == "Remove"  # the keyboard is where it was

    other = page.context.new_page()  # of a visitor who has chosen nothing
    other.goto(page.url)
    waits_for(other, popular)
    other.get_by_role("button", name="Deny Matrix Reloaded").click()
    waits_for(other, ["id0", *popular[2:], "id10"])
    page.get_by_role("button", name="Clear history").click()
    waits_for(page, popular)


def test_without_the_token_there_is_no_page(address):
    for path in ("/web/", "/web/config", "/web/gradio_api/info"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address + path)
