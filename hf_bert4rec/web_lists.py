"""
The lists of the page as HTML: what was found, the history with its weights, the recommendations, what is denied.

Every button names what it does, in words of its own for who cannot see the row, and says so to the page by `data-action` and
`data-value`.

*Source:* none.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

CSS = """
table { width: 100%; border-collapse: collapse; }
th, td { padding: 0.3rem 0.5rem; text-align: left; border: 0; border-bottom: 1px solid var(--border-color-primary); }
th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.quiet { color: var(--body-text-color-subdued); }
ul { list-style: none; margin: 0; padding: 0; }
li { margin: 0.15rem 0; }
p { margin: 0.4rem 0; }
meter { width: clamp(1.5rem, 6vw, 5rem); vertical-align: middle; }
button { padding: 0.15rem 0.6rem; border: 1px solid var(--border-color-primary); border-radius: var(--radius-sm);
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); cursor: pointer; }
button:hover { background: var(--button-secondary-background-fill-hover); }
button:focus-visible { outline: 2px solid var(--color-accent); }
li > button { width: 100%; text-align: left; }
"""

# A list is made anew after each click: who got to a button by the keyboard stays where that button was.
FOLLOW_CLICKS = """
let place = null;
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-action]');
  if (!button) return;
  place = [...element.querySelectorAll('button')].indexOf(button);
  trigger('click', {action: button.dataset.action, value: Number(button.dataset.value)});
});
watch('value', () => {
  const buttons = element.querySelectorAll('button');
  if (place !== null && buttons.length) buttons[Math.min(place, buttons.length - 1)].focus();
  place = null;
});
"""


class Entry(NamedTuple):
    """An item as it is shown."""

    token: int
    item_id: str | int
    title: str | None  # None where the model has no titles, "" where it has one for others
    place: int  # by popularity, from 1

    @property
    def name(self) -> str:
        return self.title or str(self.item_id)


def match_list(text: str, entries: Sequence[Entry], has_more: bool) -> str:
    """What a search has found, each a button that adds it."""
    if not text:
        return ""
    if not entries:
        return _said(f"No title and no id holds {text!r:.60}.")
    rows = "".join(
        f"<li>{_button('add', entry.token, f'+ {entry.name}', f'Add {entry.name}', _id(entry))}</li>"
        for entry in entries
    )
    return f"<ul>{rows}</ul>" + (_said(f"The {len(entries)} most popular; more words find fewer.") if has_more else "")


def history_table(entries: Sequence[Entry], weights: Sequence[float], num_read: int) -> str:
    """The history, oldest first, with the weight of each item."""
    if not entries:
        return _said("The history is empty. Search for something you know, and add it.")
    rows = []
    for place, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
        button = _button("remove", place, "Remove", f"Remove {entry.name} from the history")
        bar = f"<meter min=0 max=1 value={weight:.4f} title='weight'></meter> {weight:.0%}"
        rows.append([str(place + 1), _named(entry), bar, button])
    heaviest = entries[max(range(len(entries)), key=weights.__getitem__)]
    said = _said(f"Weighed most: {heaviest.name}.")
    if len(entries) > num_read:
        said += _said(f"The model reads the newest {num_read}; older ones weigh nothing.")
    return _table(["#:", "Oldest first", "Weight:", ""], rows) + said


def recommendation_table(entries: Sequence[Entry], scores: Sequence[float] | None, rarity: float) -> str:
    """The recommendations, best first; without scores they are merely popular."""
    said = "Best first, in the model's own order."
    if rarity:
        said = f"Best first; the scores hold {rarity:+.1f} × ln(place)."
    if scores is None:
        said = "No history yet, so these are the most popular items; the slider does not change them."
    if not entries:
        return _said("Nothing is left to recommend: all items are in the history or denied.")
    has_titles = entries[0].title is not None
    rows = []
    for rank, entry in enumerate(entries):
        names = [_text(entry.title or "–"), _text(str(entry.item_id))][not has_titles :]
        score = [] if scores is None else [f"{scores[rank]:.2f}"]
        button = _button("deny", entry.token, "Deny", f"Deny {entry.name}")
        rows.append([str(rank + 1), *names, *score, f"{entry.place:,}", button])
    heads = [
        "#:",
        *["Title", "Id"][not has_titles :],
        *(["Score:"] if scores else []),
        "Place by popularity:",
        "",
    ]
    return _said(said) + _table(heads, rows)


def denied_list(entries: Sequence[Entry]) -> str:
    """The denied items, each with a button that allows it again."""
    if not entries:
        return ""
    rows = [[_named(entry), _button("allow", entry.token, "Allow", f"Allow {entry.name} again")] for entry in entries]
    return _table(["Denied", ""], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A head that ends in a colon stands over numbers."""
    kinds = [" class=number" if head.endswith(":") else "" for head in heads]
    first = "".join(f"<th scope=col{kind}>{head.rstrip(':')}</th>" for head, kind in zip(heads, kinds, strict=True))
    others = ("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in rows)
    return (
        f"<table><thead><tr>{first}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in others)}</tbody></table>"
    )


def _button(action: str, value: int, text: str, label: str, rest: str = "") -> str:
    shown = f"{_text(text)} {rest}".rstrip()
    return f'<button type=button data-action={action} data-value={value} aria-label="{_text(label)}">{shown}</button>'


def _named(entry: Entry) -> str:
    return f"{_text(entry.name)} {_id(entry)}".rstrip()


def _id(entry: Entry) -> str:
    """The id, where it is not the name already."""
    return "" if not entry.title else f"<span class=quiet>{_text(str(entry.item_id))}</span>"


def _said(text: str) -> str:
    return f"<p class=quiet role=status>{_text(text)}</p>"


def _text(text: str) -> str:
    """Titles are what somebody wrote: they are neither HTML nor, as Gradio would take braces and dollars, a template."""
    escaped = html.escape(text)
    for character in "{}$`":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped
