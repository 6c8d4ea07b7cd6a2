"""
Raw item ids to token ids and back: one item is one token, a user's history is a sequence of tokens.

*Source:* Sun et al., "BERT4Rec" (CIKM 2019), section 3: items are looked up in one table that also holds the mask token.

*Differences:* padding is token 0 and unknown items have a token of their own. An id is one word whatever it holds (spaces,
any Unicode, the text of a special token), never normalised.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, NormalizedString, PreTokenizedString, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import PreTokenizer, WhitespaceSplit
from transformers import TokenizersBackend

from .item_ids import INTEGER_TEXT, ItemId, answers_met, as_list, integers_as_text, is_integer, item_texts, texts_of

__all__ = ["Bert4RecTokenizer"]

SPECIAL_TOKENS = {"pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}  # in the order of their ids


class Bert4RecTokenizer(TokenizersBackend):
    r"""
    Tokenizer whose words are items. Token 0 is padding, 1 the mask, 2 an unknown item; item `i` is token `i + 3`.

    Build one with [`~Bert4RecTokenizer.from_items`]; save and load it like any other tokenizer. In lists
    (`tokenizer(ids, is_split_into_words=True)`, `encode_items`) an id is looked up as it stands. Plain text is one
    item where it is exactly the id of one, and else a history: ids separated by white space. Added tokens and special
    tokens are entries of the one vocabulary like any item: none of them matches inside the id of another.

    Args:
        vocab (`dict[str, int]`, `list` or `str`, *optional*):
            Token id of every token, special tokens included; or the tokens in order; or the path of a `vocab.json`.
        titles_file (`str`, *optional*): Path of a JSON file that maps item ids to titles.
        item_id_type (`str`, *optional*, defaults to `"str"`): `"int"` gives item ids back as integers.
        unk_token (`str`, *optional*, defaults to `"[UNK]"`): Stands for an item that is not in the vocabulary.
        pad_token (`str`, *optional*, defaults to `"[PAD]"`): Fills up the shorter rows of a batch.
        mask_token (`str`, *optional*, defaults to `"[MASK]"`): Stands for the item to be predicted.
        kwargs (`dict[str, Any]`, *optional*):
            Passed along to [`TokenizersBackend`]. Two defaults are other than there: `truncation_side="left"` keeps
            the newest events, `split_special_tokens=True` keeps ids that contain a special token in one piece.

    Raises:
        ValueError: If there is no vocabulary, or one that is not a table of whole words.

    Example:
        >>> tokenizer = Bert4RecTokenizer.from_items([10, 20, 30])
        >>> tokenizer([10, 30], is_split_into_words=True)["input_ids"]
        [3, 5]
    """

    vocab_files_names = {"vocab_file": "vocab.json", "tokenizer_file": "tokenizer.json", "titles_file": "titles.json"}
    model_input_names = ["input_ids", "attention_mask"]
    model = WordLevel  # type: ignore[assignment]

    _tokenizer: Any
    _titles: dict[ItemId, str] | None = None
    _item_ids: list[ItemId] | None = None
    # Items that were asked for, by raw id and by token: a dictionary answers in a tenth of the backend's time.
    _met_ids: dict[ItemId, int]
    _met_tokens: dict[int, ItemId]
    _special_ids: set[int] | None = None

    # The inherited one would build a BPE model, know no special tokens of a tokenizers file, and read no titles.
    def __init__(
        self,
        vocab: Mapping[str, int] | Sequence[Any] | str | None = None,
        *,
        titles_file: str | None = None,
        item_id_type: str = "str",
        unk_token: str | AddedToken = SPECIAL_TOKENS["unk_token"],
        pad_token: str | AddedToken = SPECIAL_TOKENS["pad_token"],
        mask_token: str | AddedToken = SPECIAL_TOKENS["mask_token"],
        **kwargs: Any,
    ) -> None:
        if item_id_type not in ("str", "int"):
            raise ValueError(f"item_id_type must be 'str' or 'int', found {item_id_type!r}; choose one of the two")
        self.item_id_type = item_id_type
        self._met_ids, self._met_tokens = {}, {}
        self._tokenizer = _backend(vocab, str(unk_token), kwargs)
        super().__init__(
            titles_file=titles_file,
            item_id_type=item_id_type,
            unk_token=unk_token,
            pad_token=pad_token,
            mask_token=mask_token,
            # as arguments and not as class attributes, which are not saved
            **{"padding_side": "right", "truncation_side": "left", "split_special_tokens": True, **kwargs},
        )
        self._set_titles(_read_titles(titles_file))

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Leave the files to `__init__`, for the base class would take the vocabulary out; saving names code anew, if any."""
        return {name: value for name, value in kwargs.items() if name != "auto_map"}

    @classmethod
    def from_items(cls, items: Iterable[ItemId], titles: Any = None, **kwargs: Any) -> Bert4RecTokenizer:
        r"""
        Build a tokenizer from the items of a catalogue.

        Ids come back in the type they came in. Where an item has the text of a special token, the item keeps it: the
        special token takes another text (`[MASK]` becomes `[[MASK]]`) and keeps its token id.

        Args:
            items (iterable of `str` or `int`): Unique raw ids; the item at position `i` becomes token `i + 3`.
            titles (`dict` or iterable of `str`, *optional*): By id (others are left out) or in order; `None` for none.
            kwargs (`dict[str, Any]`, *optional*): For the class; `item_id_type="int"` makes integers of ids given as text.

        Returns:
            [`Bert4RecTokenizer`]: The tokenizer.

        Raises:
            ValueError: If an id is empty, occurs twice or is neither text nor an integer, or if both kinds are mixed.

        Example:
            >>> tokenizer = Bert4RecTokenizer.from_items(["007", "a b"], titles={"007": "Dr. No"})
            >>> tokenizer.encode_items(["a b", "007", "new"])
            ([4, 3], ['new'])
        """
        texts, item_id_type = item_texts(items)
        item_id_type = kwargs.pop("item_id_type", item_id_type)
        if item_id_type == "int" and (text := next((t for t in texts if not INTEGER_TEXT.fullmatch(t)), None)):
            raise ValueError(f"item_id_type='int' needs ids that are integers, found {text!r}; use item_id_type='str'")
        vocabulary = dict(zip(texts, range(3, len(texts) + 3), strict=True))
        if len(vocabulary) < len(texts):
            text = next(text for token, text in enumerate(texts, 3) if vocabulary[text] != token)
            raise ValueError(f"item ids must be unique, found {text!r} more than once; drop the duplicates")
        special_tokens = {}
        for token_id, (name, default) in enumerate(SPECIAL_TOKENS.items()):
            text = str(kwargs.pop(name, default))
            while text in vocabulary:
                text = f"[{text}]"
            special_tokens[name] = text
            vocabulary[text] = token_id
        tokenizer = cls(vocab=vocabulary, item_id_type=item_id_type, **{**special_tokens, **kwargs})
        tokenizer._set_titles(_title_table(titles, texts))
        return tokenizer

    @property
    def num_items(self) -> int:
        """`int`: Number of items, special tokens not counted."""
        return len(self) - len(self._special_token_ids())

    @property
    def item_ids(self) -> list[ItemId]:
        """`list`: Raw ids of all items in token order, in the type they came in. Not a copy: leave it unchanged."""
        if self._item_ids is None:
            tokens = [token for token in range(len(self)) if token not in self._special_token_ids()]
            self._item_ids = [self._raw_id(self._tokenizer.id_to_token(token)) for token in tokens]
        return self._item_ids

    @property
    def titles(self) -> dict[ItemId, str] | None:
        """`dict`, *optional*: Titles by raw item id, for those items that have one. Not a copy: leave it unchanged."""
        return self._titles

    def title(self, item_id: ItemId) -> str | None:
        """
        Title of the item with the raw id `item_id`, `None` if there is none.

        Example:
            >>> Bert4RecTokenizer.from_items([7], titles=["Se7en"]).title(7)
            'Se7en'
        """
        return None if self._titles is None else self._titles.get(self._raw_id(str(item_id)))

    def encode_items(self, history: Iterable[ItemId], unknown: str = "skip") -> tuple[list[int], list[ItemId]]:
        r"""
        Tokens of the items of one history; those that are not in the vocabulary are left out and given back.

        Args:
            history (iterable of `str` or `int`): Raw ids, oldest first; `7` and `"7"` are the same item.
            unknown (`str`, *optional*, defaults to `"skip"`): `"error"` raises at the first such item.

        Returns:
            `tuple[list[int], list]`: The token ids of the known items and the raw ids of the others, each in order.

        Raises:
            ValueError: If an id is neither text nor an integer, or unknown with `unknown="error"`.

        Example:
            >>> Bert4RecTokenizer.from_items(["a", "b"]).encode_items(["b", "x", "a"])
            ([4, 3], ['x'])
        """
        if unknown not in ("skip", "error"):
            raise ValueError(f"unknown must be 'skip' or 'error', found {unknown!r}; choose one of the two")
        raw_ids, special = as_list(history, "a history"), self._special_token_ids()
        met = answers_met(self._met_ids, raw_ids, {int, str})
        if met is not None:
            return met, []
        tokens = list(map(self._tokenizer.token_to_id, texts_of(raw_ids, "a history")))
        if not special.isdisjoint(tokens):
            tokens = [None if token in special else token for token in tokens]
        if None not in tokens:
            self._met_ids.update(zip(raw_ids, tokens, strict=True))
            return tokens, []
        unknown_ids = [raw_id for raw_id, token in zip(raw_ids, tokens, strict=True) if token is None]
        if unknown == "error":
            advice = f"found {unknown_ids[0]!r}; leave it out or let unknown items be skipped"
            raise ValueError("a history must hold items of the vocabulary only, " + advice)
        return [token for token in tokens if token is not None], unknown_ids

    def decode_items(self, token_ids: Iterable[int]) -> list[ItemId]:
        r"""
        Raw ids of items in the type they came in.

        Args:
            token_ids (iterable of `int`): Token ids: a list, an array or a tensor of one dimension.

        Returns:
            `list`: Raw ids in the order of the tokens.

        Raises:
            ValueError: If a token is not the token of an item.

        Example:
            >>> Bert4RecTokenizer.from_items(["a", "b"]).decode_items([4, 3])
            ['b', 'a']
        """
        tokens, special, size = as_list(token_ids, "token_ids"), self._special_token_ids(), len(self)
        met = answers_met(self._met_tokens, tokens, {int})
        if met is not None:
            return met
        for token in tokens:
            if not is_integer(token) or not 0 <= token < size or token in special:
                raise ValueError(f"token_ids must be tokens of items, found {token!r}; leave out what is none")
        found = [self._raw_id(self._tokenizer.id_to_token(token)) for token in tokens]
        self._met_tokens.update(zip(tokens, found, strict=True))
        return found

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.json`, the token id of every token and nothing else. Returns the path written."""
        return tuple(self._tokenizer.model.save(str(save_directory), filename_prefix))

    def train_new_from_iterator(self, text_iterator: Iterable[Any], vocab_size: int, *args: Any, **kwargs: Any) -> Any:
        """Like the base class; the texts are histories, ids separated by white space; frequent items come first."""
        reader = self._text_reader(WhitespaceSplit())
        return super(Bert4RecTokenizer, reader).train_new_from_iterator(text_iterator, vocab_size, *args, **kwargs)

    def _save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        file_names = super()._save_pretrained(save_directory, *args, **kwargs)
        path = Path(file_names[-1].removesuffix("tokenizer.json") + "titles.json")  # a prefix stays
        if self._titles is None:
            path.unlink(missing_ok=True)  # left by a tokenizer saved here before, they would be read as this one's
            return file_names
        path.write_text(json.dumps(self._titles, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        return (*file_names, str(path))

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        text, text_pair = integers_as_text(text), integers_as_text(text_pair)
        if kwargs.get("is_split_into_words"):
            return super()._encode_plus(text, text_pair, **kwargs)
        reader = self._text_reader(PreTokenizer.custom(_HistoryText(self._tokenizer.model)))
        return super(Bert4RecTokenizer, reader)._encode_plus(text, text_pair, **kwargs)

    def _text_reader(self, pre_tokenizer: PreTokenizer) -> Bert4RecTokenizer:
        # A backend of its own on the same vocabulary: a pre-tokenizer in the common one would also cut the ids of a
        # list, and setting it there for one call only makes two threads wait for each other for ever.
        reader = copy.copy(self)
        reader._tokenizer = Tokenizer(self._tokenizer.model)
        reader._tokenizer.add_special_tokens(list(self.added_tokens_decoder.values()))
        reader._tokenizer.post_processor = self._tokenizer.post_processor
        reader._tokenizer.pre_tokenizer = pre_tokenizer
        return reader

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        # The base class keeps added tokens beside the vocabulary and finds them inside longer ids; here they enter it.
        self._item_ids = self._special_ids = None
        self._met_ids, self._met_tokens = {}, {}
        texts = dict.fromkeys(str(token) for token in new_tokens)
        new_texts = [text for text in texts if text and self._tokenizer.token_to_id(text) is None]
        if new_texts:
            vocabulary = self.get_vocab()
            first = max(vocabulary.values(), default=-1) + 1
            vocabulary.update((text, token) for token, text in enumerate(new_texts, first))
            self._tokenizer.model = WordLevel(vocabulary, unk_token=self._tokenizer.model.unk_token)
        special = [token for token in new_tokens if special_tokens or getattr(token, "special", False)]
        self._tokenizer.add_special_tokens(special)
        return len(new_texts)

    def _special_token_ids(self) -> set[int]:
        if self._special_ids is None:
            self._special_ids = {token_id for token_id, token in self.added_tokens_decoder.items() if token.special}
        return self._special_ids

    def _raw_id(self, text: str) -> ItemId:
        return int(text) if self.item_id_type == "int" and INTEGER_TEXT.fullmatch(text) else text

    def _set_titles(self, titles: dict[str, str]) -> None:
        self._titles = {self._raw_id(text): title for text, title in titles.items()} or None


class _HistoryText(NamedTuple):
    """Cuts plain text at white space, unless the whole of it is one token of the vocabulary."""

    model: WordLevel

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(self._split)

    def _split(self, _: int, text: NormalizedString) -> list[NormalizedString]:
        whole = self.model.token_to_id(text.normalized) is not None
        return [text] if whole else text.split(Regex(r"\s+"), "removed")


def _title_table(titles: Any, texts: list[str]) -> dict[str, str]:
    """Titles by id text. NaN is what pandas reads from an empty field: no title, like `None`."""
    if isinstance(titles, Mapping):
        by_text = dict(zip(texts_of(list(titles), "the keys of titles"), titles.values(), strict=True))
        titles = [by_text.get(text) for text in texts]
    values = [None] * len(texts) if titles is None else as_list(titles, "titles")
    if len(values) != len(texts):
        raise ValueError(f"titles must be one for each of {len(texts)} items, found {len(values)}; use None for none")
    known = [i for i, it in enumerate(values) if not (it is None or (isinstance(it, float) and math.isnan(it)))]
    return dict(zip([texts[i] for i in known], texts_of([values[i] for i in known], "titles"), strict=True))


def _read_titles(path: str | None) -> dict[str, str]:
    if path is None or not os.path.isfile(path):
        return {}
    try:
        titles = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        titles = None
    if not isinstance(titles, dict):
        raise ValueError(f"{path} must be a JSON object of titles by item id, found none; save the tokenizer again")
    return titles


def _backend(vocab: Any, unk_token: str, kwargs: dict[str, Any]) -> Tokenizer:
    """The tokenizer of the tokenizers library from a copy of one, its file or a vocabulary, taken out of `kwargs`."""
    tokenizer, tokenizer_file = kwargs.pop("tokenizer_object", None), kwargs.pop("tokenizer_file", None)
    vocab = kwargs.get("vocab_file") if vocab is None else vocab
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)
    elif tokenizer_file is not None:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    elif vocab is None:
        found = f"neither tokenizer.json nor vocab.json in {kwargs.get('name_or_path') or 'the arguments'}"
        raise ValueError(f"a Bert4RecTokenizer needs a vocabulary, found {found}; load a saved one or use from_items")
    else:
        if isinstance(vocab, (str, os.PathLike)):
            vocab = json.loads(Path(vocab).read_text(encoding="utf-8"))
        if not isinstance(vocab, Mapping):  # tokens, or the (token, score) pairs of Transformers' own extractors
            vocab = {entry if isinstance(entry, str) else entry[0]: token for token, entry in enumerate(vocab)}
        tokenizer = Tokenizer(WordLevel(dict(vocab), unk_token=unk_token))
    if not isinstance(tokenizer.model, WordLevel):
        found = type(tokenizer.model).__name__
        raise ValueError(f"a Bert4RecTokenizer needs a WordLevel model, found {found}; load a folder saved by one")
    tokenizer.normalizer = tokenizer.pre_tokenizer = None
    return tokenizer
