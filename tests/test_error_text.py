"""An error of whatever library is one line."""

from hf_bert4rec.error_text import one_line


def test_a_full_disk_says_what_to_do_whoever_ran_into_it():
    said = "no space left on device; free some and repeat the command"
    assert one_line(OSError(28, "No space left on device")) == said
    assert one_line(OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")) == said
    assert one_line(OSError(28, "No space left on device", "a.json")) == "a.json: No space left on device"


def test_lines_are_joined():
    assert one_line(ValueError("wrong\n  found")) == "wrong found"
