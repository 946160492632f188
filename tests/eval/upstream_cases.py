"""Answers that are hard to judge, and what lmms-eval makes of them.

    python -m tests.eval.upstream_cases

writes upstream_verdicts.json anew, which the tests read where lmms-eval is not installed.
"""

import json
import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

VERDICTS = Path(__file__).with_name("upstream_verdicts.json")
FAMILIES = ("relaxed", "anls", "vqa", "ocrbench", "ocrbench_formula")

PIECES = [
    *"0 1 10 10.4 10.5 10.6 9.5 1,000 1000 3.5 .5 -2 +7 1e3 1e400 nan inf".split(),
    *"10% 0.1 50% %% 1_000".split(),
    *"a an the A The two Two zero none ten dogs dog's cat's it's don't dont couldnt've".split(),
    *"couldn'tve couldntve yall'd've y'all 'twas ow's'at 'ows'at somebody'd Im let's lets".split(),
    *"red Red RED Straße STRASSE ß ŒUVRE İstanbul ΑΣ ﬁn é e\u0301 ١٢ 👍🏽".split(),
    *"２０２６ Ａｂ！ ｈｅ 東京".split(),
    *[". . .", "...", "." * 40, "a.b.c", "U.S.A.", "?", "!", "yes/no", "(red)", "x-y", "x - y"],
    *['"quoted"', "[1]", "{2}", "\\frac{1}{2}", "\\sqrt { x }", "a_b", "@home", "`x`", "<b>", "="],
    *["", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "line\nbreak", " pad ", ", ", "; "],
]  # fmt: skip
EDGES: dict[str, list[tuple[str, list[str]]]] = {
    "relaxed": [
        ("10.4", ["10"]), ("10.5", ["10"]), ("10.6", ["10"]), ("10%", ["0.1"]), ("10%", ["10"]),
        ("0", ["0"]), ("0.0", ["0"]), ("1,000", ["1000"]), ("Yes.", ["Yes"]), (" 10 ", ["10"]),
        (" Yes", ["Yes"]), ("YES", ["yes"]), ("nan", ["nan"]), ("inf", ["inf"]), ("", [""]),
        ("10%%", ["0.1"]), ("%", ["%"]), ("-9.6", ["-10"]), ("10\n", ["10"]), ("0%", ["0%"]),
    ],
    "anls": [
        ("42", ["421"]), ("", [""]), ("", ["a"]), ("ab  ", ["ac"]), ("abcd", ["abxy"]),
        ("abcd", ["axyz"]), ("strasse", ["straße"]), ("İ", ["i"]), ("A\nB", ["a b"]),
        ("a b", ["something else", "a b"]),
    ],
    "vqa": [
        ("The two dogs.", ["2 dogs"] * 4 + ["cat"] * 6), ("10,000", ["10000"] * 3 + ["1"] * 7),
        ("." * 40, ["......"] * 10), ("dont", ["don't"] * 10), ("somebody'd", ["somebodyd"] * 10),
        ("", [""] * 10), ("the", ["a"] * 10), ("none", ["0"] * 2 + ["1"] * 8),
    ],
    "ocrbench": [
        ("It says STOP", ["stop"]), ("ＳＴＯＰ！", ["stop!"]), ("a\nb", ["a b"]), ("a", [""]),
        ("", ["a"]), ("stop", ["go", "to"]),
    ],
    "ocrbench_formula": [
        ("\\frac { 1 } { 2 }", ["\\frac{1}{2}"]), ("X", ["x"]), ("a\nb", ["ab"]), ("Ａ", ["A"]),
    ],
}  # fmt: skip


class Case(NamedTuple):
    """A model's answer, as the harness hands it over: without spaces around it."""

    family: str
    prediction: str
    references: list[str]


def cases(family: str, count: int, seed: int = 0) -> Iterator[Case]:
    """The edge cases, and `count` random answers near their references."""
    for prediction, references in EDGES[family]:
        yield Case(family, prediction, references)
    draw = random.Random(f"{family} {seed}")
    number = {"relaxed": 1, "vqa": 10}.get(family)
    for _ in range(count):
        pool = [phrase(draw) for _ in range(draw.choice((1, 2, 3)))]
        references = [near(draw.choice(pool), draw) for _ in range(number or draw.randint(1, 4))]
        prediction = near(draw.choice(pool), draw)
        yield Case(family, prediction if draw.random() < 0.1 else prediction.strip(), references)


def phrase(draw: random.Random) -> str:
    return draw.choice(("", " ", " ", "\n")).join(draw.choices(PIECES, k=draw.randint(1, 4)))


def near(text: str, draw: random.Random) -> str:
    """The text as it is, in another case, with a letter more or less, or among others."""
    place = draw.randint(0, len(text))
    return draw.choice(
        (
            text, text, text, text.upper(), text.lower(), text.title(), f" {text}", f"{text}.",
            text[:place] + text[place + 1 :], text[:place] + draw.choice("a0.,% '") + text[place:],
            f"The {text} is", text.replace(" ", "  "), number_near(text, draw),
        )
    )  # fmt: skip


def number_near(text: str, draw: random.Random) -> str:
    try:
        return f"{float(text) * draw.choice((0.94, 0.95, 0.96, 1, 1.04, 1.05, 1.06)):.6g}"
    except ValueError:
        return text


def upstream(case: Case) -> float:
    """The score that lmms-eval's own function gives."""
    family, prediction, references = case
    if family == "relaxed":
        correct = import_module("lmms_eval.tasks.chartqa.utils").relaxed_correctness
        return float(correct(prediction, references[0]))
    if family == "anls":
        anls = import_module("lmms_eval.api.metrics").anls
        return float(anls(references=references, predictions=[prediction])["anls"])
    if family == "vqa":
        process = import_module("lmms_eval.tasks.textvqa.utils").textvqa_process_results
        doc = {"answers": list(references), "question_id": 0}
        return float(process(doc, [prediction])["exact_match"])
    process = import_module("lmms_eval.tasks.ocrbench.utils").ocrbench_process_results
    dataset = "HME100k" if family == "ocrbench_formula" else "SVT"
    doc = {"answer": list(references), "dataset": dataset, "question_type": "x"}
    return float(process(doc, [prediction])["ocrbench_accuracy"]["score"])


def main() -> None:
    judged = [
        json.dumps([*case, upstream(case)], ensure_ascii=True)
        for family in FAMILIES
        for case in cases(family, 120, seed=1)
    ]
    VERDICTS.write_text("[\n" + ",\n".join(judged) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
