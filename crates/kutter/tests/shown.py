"""Compares what a command printed with what a page shows: shown.py PRINTED SHOWN.

Numbers stand for any numbers, white space for any, a line of `…` for any lines; before and after what is shown there
may be more.
"""

import re
import sys


def plain(text):
    text = re.sub(r"\x1b\[[0-9;]*[a-zA-Z]", "", text)
    lines = (re.sub(r"[0-9]+(\.[0-9]+)*", "#", line).split() for line in text.replace("\r", "\n").split("\n"))
    return [" ".join(line) for line in lines if line]


def find(line, lines, start):
    for at in range(start, len(lines)):
        if lines[at] == line:
            return at
    return None


printed, shown = (plain(open(name, encoding="utf-8").read()) for name in sys.argv[1:3])
at, anywhere = 0, True
for line in shown:
    if line == "…":
        anywhere = True
        continue
    found = find(line, printed, at) if anywhere else (at if at < len(printed) and printed[at] == line else None)
    if found is None:
        print("not printed here:", line)
        print("\n".join(printed))
        sys.exit(1)
    at, anywhere = found + 1, False
