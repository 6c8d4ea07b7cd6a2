"""
A pipeline behind a page to try it on: search items, make a history of them, watch the recommendations change. Needs Gradio,
which the extra `web` installs.

What a visitor has chosen is held by the visitor's page alone and comes with each click, as tokens: the server keeps nothing.
The page asks no other server for anything.

*Source:* none.
"""

# No `from __future__ import annotations`: Gradio reads those of functions inside functions, where text is not resolved.

import copy
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from .attention_rollout import AttentionRollout
from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .item_search import ItemSearch
from .pipeline_recommendation import NextItemRecommendationPipeline
from .scoring import RarityScorer
from .web_lists import CSS, FOLLOW_CLICKS, Entry, denied_list, history_table, match_list, recommendation_table

NUM_MATCHES = 8
NUM_RECOMMENDATIONS = 10
MAX_CHOSEN = 1000  # items of a history, and denied ones
NOTHING_CHOSEN: dict[str, list[int]] = {"history": [], "denied": []}

ABOUT = """
**What you see.** The model ranks its whole catalogue by how likely each item comes next after the history; items of the
history and denied ones are left out. A score is a log-probability but for a constant that differs from history to history.

**Weight.** How much of each past item reaches the recommendation through the model's attention (attention rollout, averaged
over heads). It is a hint and no explanation: what an item did to the list shows when you remove it.

**Slider.** Its value times ln(place) is added to the score of every item before anything is ranked; place 1 is the most
popular item. At 0 the list is the model's own.

**Place by popularity.** A saved model keeps no counts. The place is that in its vocabulary, which `hf-bert4rec prepare` sorts by
the number of events; of a model whose vocabulary has another order, place and slider say nothing.
"""


class TrialPage:
    r"""
    What the page shows, as HTML, for what a visitor has chosen.

    Args:
        recommender ([`NextItemRecommendationPipeline`]): Ranks; not changed.

    Example:
        >>> from transformers import pipeline
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
        >>> model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=5))
        >>> tokenizer = Bert4RecTokenizer.from_items(["a", "b"], titles=["Alien", "Brazil"])
        >>> page = TrialPage(pipeline("next-item-recommendation", model=model, tokenizer=tokenizer))
        >>> history, recommendations, denied = page.lists({"history": [3], "denied": []}, rarity=0.0)
        >>> "Alien" in history, "Alien" in recommendations, "Brazil" in recommendations, denied
        (True, False, True, '')
    """

    def __init__(self, recommender: NextItemRecommendationPipeline):
        # A pipeline of its own, so that the slider of a page moves nobody else's scores; the weights are shared.
        self.recommender = copy.copy(recommender)
        self.scorer, self.tokenizer = recommender.scorer, recommender.tokenizer
        self.search, self.weigh = ItemSearch(self.tokenizer), AttentionRollout(recommender.model)
        self.num_read = recommender.model.config.max_position_embeddings - 1
        self.lock = threading.Lock()  # visitors come in threads of their own

    def matches(self, text: str) -> str:
        """The list of items that hold the words of `text`."""
        found = self.search(text, NUM_MATCHES + 1)
        return match_list(text.strip(), self._entries(found[:NUM_MATCHES]), has_more=len(found) > NUM_MATCHES)

    def lists(self, chosen: dict[str, list[int]], rarity: float) -> tuple[str, str, str]:
        r"""
        Args:
            chosen (`dict`): Tokens of the `history`, oldest first, and of the `denied` items.
            rarity (`float`): Strength of [`RarityScorer`].

        Returns:
            `tuple[str, str, str]`: the history with its weights, the recommendations, and the denied items.

        Raises:
            ValueError: If a token is none of an item, or if there are more than a page holds.
        """
        if max(map(len, chosen.values())) > MAX_CHOSEN:
            raise ValueError(f"A page holds at most {MAX_CHOSEN:,} items; remove some.")
        history, denied = (self._entries(chosen[name]) for name in ("history", "denied"))
        with self.lock:
            weights = self.weigh(np.array(chosen["history"], dtype=np.int64))
            self.recommender.scorer = RarityScorer(self.scorer, rarity)
            answer = self.recommender(
                [entry.item_id for entry in history],
                top_k=min(NUM_RECOMMENDATIONS, self.tokenizer.num_items),
                denied_items=[entry.item_id for entry in denied],
            )
        found = answer["recommendations"]
        tokens, _ = self.tokenizer.encode_items([entry["item_id"] for entry in found])
        scores = None if answer["is_popularity"] else [entry["score"] for entry in found]
        return (
            history_table(history, weights.tolist(), self.num_read),
            recommendation_table(self._entries(tokens), scores, rarity),
            denied_list(denied),
        )

    def after(self, chosen: dict[str, list[int]], action: str, value: int) -> dict[str, list[int]]:
        r"""
        What is chosen after a click.

        Args:
            chosen (`dict`): What was chosen before; not changed.
            action (`str`): `"add"` an item, `"remove"` a place of the history, `"deny"` an item or `"allow"` it again.
            value (`int`): The token, or the place from 0.

        Raises:
            ValueError: If there is no such action.
        """
        history, denied = list(chosen["history"]), list(chosen["denied"])
        if action == "add":
            history.append(value)
        elif action == "remove":
            del history[value : value + 1]
        elif action == "deny":
            denied.append(value)
        elif action == "allow":
            denied = [token for token in denied if token != value]
        else:
            raise ValueError(f"There is no action {action!r}.")
        return {"history": history, "denied": denied}

    def _entries(self, tokens: Sequence[int]) -> list[Entry]:
        item_ids, titles = self.tokenizer.decode_items(tokens), self.tokenizer.titles
        return [
            Entry(token, item_id, None if titles is None else titles.get(item_id, ""), token - FIRST_ITEM_TOKEN + 1)
            for token, item_id in zip(tokens, item_ids, strict=True)
        ]


def web_page(recommender: NextItemRecommendationPipeline, *, name: str) -> Any:
    r"""
    The page, to be launched or mounted.

    Args:
        recommender ([`NextItemRecommendationPipeline`]): Ranks; any saved model will do, with titles or without.
        name (`str`): The model's, for the heading.

    Returns:
        `gradio.Blocks`: The page.

    Raises:
        ValueError: If Gradio is missing.
    """
    check_gradio()
    import gradio

    trial = TrialPage(recommender)
    shown = dict(zip(("history", "recommendations", "denied"), trial.lists(NOTHING_CHOSEN, 0.0), strict=True))
    with gradio.Blocks(title=f"{name} – next-item recommendation", analytics_enabled=False) as page:
        gradio.Markdown(f"# What comes next?\n`{name}` · {trial.tokenizer.num_items:,} items")
        parts = {"chosen": gradio.JSON(NOTHING_CHOSEN, visible=False)}
        with gradio.Row():
            with gradio.Column(scale=2, min_width=340):
                gradio.Markdown("## History")
                parts["search"] = gradio.Textbox(
                    label="Search titles and ids",
                    placeholder="a word of a title, or an id; Enter adds the first",
                    autofocus=True,
                )
                parts["matches"] = _list(gradio, trial.matches(""))
                parts["history"] = _list(gradio, shown["history"])
                parts["clear"] = gradio.Button("Clear history", size="sm")
            with gradio.Column(scale=3, min_width=400):
                gradio.Markdown("## Recommendations")
                parts["rarity"] = gradio.Slider(-1, 1, 0, step=0.1, label="From popular (-1) to rare (+1)")
                parts["recommendations"] = _list(gradio, shown["recommendations"])
                parts["denied"] = _list(gradio, shown["denied"])
        gradio.Markdown(ABOUT)
        _listen(gradio, trial, parts)
    return page


def mount_page(app: Any, page: Any, path: str) -> None:
    """Add a page to an application of FastAPI; what guards the application guards the page."""
    import gradio

    gradio.mount_gradio_app(app, page, path, ssr_mode=False, mcp_server=False, **page_options())


def page_options() -> dict[str, Any]:
    """How the page is mounted or launched: fonts of its own, greys that can be read, nothing beside it that it lacks."""
    import gradio

    # The 600 of Gradio's own font is a file without letters; its 700 stands for both.
    font = gradio.themes.LocalFont("Source Sans Pro", weights=(400, 700))
    theme = gradio.themes.Default(font=[font, "system-ui", "sans-serif"])
    for name in ("body_text_color_subdued", "block_info_text_color", "block_label_text_color"):
        theme = theme.set(**{name: "*neutral_600", f"{name}_dark": "*neutral_300"})
    return {"theme": theme, "footer_links": [], "run_history": False}


def check_gradio() -> None:
    r"""
    Raises:
        ValueError: If Gradio is missing.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError(f"The page needs Gradio ({error}): pip install 'hf_bert4rec[web]'") from None


def _list(gradio: Any, html: str) -> Any:
    return gradio.HTML(html, css_template=CSS, js_on_load=FOLLOW_CLICKS, apply_default_css=False)


def _listen(gradio: Any, trial: TrialPage, parts: dict[str, Any]) -> None:
    """What follows from what a visitor does."""
    lists = [parts[name] for name in ("history", "recommendations", "denied")]
    # Answered in milliseconds: a queue, and the stream that tells a visitor's place in it, would take longer.
    at_once = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def act(chosen: dict, rarity: float, event: gradio.EventData) -> tuple:
        chosen = trial.after(chosen, event.action, event.value)
        return chosen, *trial.lists(chosen, rarity)

    def add(chosen: dict, rarity: float, event: gradio.EventData) -> tuple:
        return *act(chosen, rarity, event), ""

    def add_first(chosen: dict, rarity: float, text: str) -> tuple:
        found = trial.search(text, 1)
        if found:
            chosen, text = trial.after(chosen, "add", found[0]), ""
        return chosen, *trial.lists(chosen, rarity), text

    def clear(chosen: dict, rarity: float) -> tuple:
        chosen = chosen | {"history": []}
        return chosen, *trial.lists(chosen, rarity)

    given, changed = [parts["chosen"], parts["rarity"]], [parts["chosen"], *lists]
    search = parts["search"]
    search.change(trial.matches, search, parts["matches"], **at_once)  # also when an item was added and it is emptied
    search.submit(add_first, [*given, search], [*changed, search], **at_once)
    parts["matches"].click(add, given, [*changed, search], **at_once)
    for clicked in lists:
        clicked.click(act, given, changed, **at_once)
    parts["clear"].click(clear, given, changed, **at_once)
    parts["rarity"].change(trial.lists, given, lists, **at_once)
