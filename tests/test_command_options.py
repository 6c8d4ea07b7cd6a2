"""Flags made from a dataclass: the type of each value, what the help says, and that what is not given is not there."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import pytest

from hf_bert4rec.cli import main
from hf_bert4rec.command_options import COMMON_ARGUMENTS, add_options
from hf_bert4rec.training import option_fields


@dataclass
class Options:
    r"""
    Every kind of field.

    Args:
        count (`int`, *optional*, defaults to 3):
            How many there
            are, said in two lines.
        share (`float`, *optional*): A part.

            Of the whole.

    Not an argument.
    """

    switch: bool = field(default=False, metadata={"help": "Turns it on."})
    maybe: bool | None = None
    count: int = 3
    many: Optional[int] = None  # noqa: UP045 - the spelling that Transformers' own fields have
    share: float = 0.25
    quoted: "float | None" = None
    name: str = "abc"
    code: int | str | None = None
    choice: Literal["one", "two"] = "one"
    table: dict[str, Any] | str | None = None
    bare_table: dict | None = None
    names: list[str] | None = None
    several: str | list[str] | None = None
    switch_or_text: bool | str | None = None
    sure: str = field(default="5%", metadata={"help": "100% or 50 %(default)s or %d."})
    made: list = field(default_factory=list, metadata={"help": "Made anew."})


def parser(**options):
    result = argparse.ArgumentParser(prog="prog")
    fields = {chosen.name: chosen for chosen in dataclasses.fields(Options)}
    add_options(result, Options, fields, title="every kind", **options)
    return result


def parse(*arguments):
    return vars(parser().parse_args(arguments))


def help_of(**options):
    return " ".join(parser(**options).format_help().split())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("switch", "true", True),
        ("switch", "False", False),
        ("switch", "no", False),
        ("switch", "1", True),
        ("maybe", "0", False),
        ("count", "7", 7),
        ("count", "-1", -1),
        ("many", "8", 8),
        ("share", "0.5", 0.5),
        ("share", "3e-4", 3e-4),
        ("share", "2", 2),
        ("quoted", "0.1", 0.1),
        ("name", "7", "7"),
        ("name", "true", "true"),
        ("name", "[1]", "[1]"),
        ("code", "007", "007"),
        ("choice", "two", "two"),
        ("table", '{"a": {"b": 2}}', {"a": {"b": 2}}),
        ("table", "file.json", "file.json"),
        ("bare_table", '{"a": 1}', {"a": 1}),
        ("names", '["a", "b"]', ["a", "b"]),
        ("several", "none", "none"),
        ("several", '["a"]', ["a"]),
        ("switch_or_text", "true", True),
        ("switch_or_text", "auto", "auto"),
    ],
)
def test_a_value_has_the_type_of_its_field(name, text, value):
    found = parse(f"--{name}", text)
    assert found == {name: value}
    assert type(found[name]) is type(value)


def test_a_flag_alone_turns_a_boolean_on_and_leaves_the_next_flag_alone():
    assert parse("--switch", "--maybe", "--count", "1") == {"switch": True, "maybe": True, "count": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("switch", "perhaps", "argument --switch: 'perhaps' is neither true nor false"),
        ("share", "half", "argument --share: 'half' is not a number"),
        ("count", "1.5", "argument --count: invalid int value: '1.5'"),
        ("count", "", "argument --count: invalid int value: ''"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(capsys, name, text, message):
    with pytest.raises(SystemExit) as ended:
        parse(f"--{name}", text)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_options_that_are_not_given_are_not_there():
    assert parse() == {}
    assert parse("--name", "abc") == {"name": "abc"}  # even where it is the default


def test_the_help_shows_words_and_defaults_of_each_field():
    text = help_of()
    assert "every kind:" in text
    assert "--switch [BOOL] Turns it on. (default: False)" in text
    assert "--count INT How many there are, said in two lines. (default: 3)" in text
    assert "--share NUMBER A part. Of the whole. (default: 0.25)" in text
    assert "--table VALUE --bare_table VALUE" in text  # None is no default worth a word
    assert "--made VALUE Made anew." in text
    assert "MISSING" not in text
    assert "Not an argument" not in text


def test_a_default_that_differs_replaces_that_of_the_field():
    text = help_of(defaults={"count": 70})
    assert "(default: 70)" in text
    assert "(default: 3)" not in text


def test_percent_signs_stand_in_the_help_as_they_are_written():
    assert "100% or 50 %(default)s or %d. (default: 5%)" in help_of()


def test_what_is_not_shown_can_still_be_given():
    text = help_of(shown={"count"})
    assert "--count INT How many" in text
    assert "--share" not in text
    assert vars(parser(shown={"count"}).parse_args(["--share", "1.5"])) == {"share": 1.5}


def test_only_the_fields_that_are_asked_for_become_flags(capsys):
    one = argparse.ArgumentParser()
    add_options(one, Options, {"count": Options.__dataclass_fields__["count"]}, title="one")
    with pytest.raises(SystemExit):
        one.parse_args(["--share", "1"])
    assert "unrecognized arguments: --share" in capsys.readouterr().err


def test_every_shown_option_of_a_run_has_a_line_of_help():
    for owner, fields in option_fields().items():
        all_of_it = argparse.ArgumentParser()
        add_options(all_of_it, owner, fields, title=owner.__name__)
        for action in all_of_it._actions:
            is_shown = action.dest in COMMON_ARGUMENTS or owner.__module__.startswith("hf_bert4rec")
            assert not is_shown or len(action.help) > 10, f"{owner.__name__}.{action.dest}: {action.help!r}"


@pytest.mark.parametrize(("word", "is_hinted"), [("-i3", True), ("--top-k", False)])
def test_an_id_that_looks_like_an_option_is_met_with_the_way_to_give_it(capsys, word, is_hinted):
    with pytest.raises(SystemExit) as ended:
        main(["recommend", "run", "--history", "i2", word])
    assert ended.value.code == 2
    found = capsys.readouterr().err
    assert f"unrecognized arguments: {word}" in found
    assert ("an id that begins with '-' can be given alone, as in --history=-7a" in found) is is_hinted
