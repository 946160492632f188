"""The text-rich benchmarks: columns, prompts, lengths and measures, as lmms-eval 0.7 has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from manzano.answering import AnswerSettings
from manzano.eval.metrics import anls, ocrbench, relaxed_accuracy, vqa_accuracy

Columns = Mapping[str, str]
"""Of a sample, those of its own that a measure or a part depends on."""

PHRASE = "{question}\nAnswer the question using a single word or phrase."
OCRBENCH_PARTS = {
    "Regular Text Recognition": "text_recognition",
    "Irregular Text Recognition": "text_recognition",
    "Artistic Text Recognition": "text_recognition",
    "Handwriting Recognition": "text_recognition",
    "Digit String Recognition": "text_recognition",
    "Non-Semantic Text Recognition": "text_recognition",
    "Scene Text-centric VQA": "scene_text_vqa",
    "Doc-oriented VQA": "document_vqa",
    "Key Information Extraction": "key_information",
    "Handwritten Mathematical Expression Recognition": "handwritten_formulas",
}


def as_it_is(question: str) -> str:
    return question


@dataclass(frozen=True, kw_only=True)
class TextRichTask:
    """One benchmark of questions about pictures."""

    split: str
    measure: str
    """Its name in lmms-eval."""
    score: Callable[[str, Sequence[str], Columns], float]
    """Of an answer, given the references, in [0, 1]."""
    prompt: str
    max_new_tokens: int
    answers: str = "answers"
    """The column of references."""
    columns: tuple[str, ...] = ()
    """Columns beside question, answers and image."""
    part: Callable[[Columns], str] | None = None
    """The sub-total a sample counts for."""
    config: str = ""
    """Sub-folder of the hub's repository, where it holds several data sets."""
    stop: tuple[str, ...] = ("\n\n",)
    spoken: Callable[[str], str] = as_it_is
    """What becomes of a question before it is asked."""

    def settings(self) -> AnswerSettings:
        """The likeliest tokens, up to the length of the benchmark."""
        return AnswerSettings(max_new_tokens=self.max_new_tokens, stop=self.stop)

    def asked(self, question: str, prompt: str) -> str:
        """The words of the question, by the template `prompt`."""
        return prompt.replace("{question}", self.spoken(question))


def chartqa_part(columns: Columns) -> str:
    human = columns["type"] == "human_test"
    return "relaxed_human_split" if human else "relaxed_augmented_split"


def ocrbench_part(columns: Columns) -> str:
    kind = columns["question_type"]
    if kind not in OCRBENCH_PARTS:
        raise ValueError(f"question_type {kind!r} is none of {', '.join(OCRBENCH_PARTS)}")
    return OCRBENCH_PARTS[kind]


TASKS = {
    "chartqa": TextRichTask(
        split="test", measure="relaxed_overall", answers="answer", columns=("type",),
        prompt="{question}\nAnswer the question with a single word.", max_new_tokens=16,
        score=lambda said, references, _: max(relaxed_accuracy(said, r) for r in references),
        part=chartqa_part,
    ),
    "textvqa": TextRichTask(
        # lmms-eval leaves the length to a model: this is that of ours, manzano.eval.harness.
        split="validation", measure="exact_match", prompt=PHRASE, spoken=str.capitalize,
        max_new_tokens=1024, stop=("ASSISTANT:",),
        score=lambda said, references, _: vqa_accuracy(said, references),
    ),
    "docvqa": TextRichTask(
        split="validation", measure="anls", prompt=PHRASE, max_new_tokens=32, config="DocVQA",
        score=lambda said, references, _: anls(said, references),
    ),
    "infovqa": TextRichTask(
        split="validation", measure="anls", prompt=PHRASE, max_new_tokens=32,
        config="InfographicVQA", score=lambda said, references, _: anls(said, references),
    ),
    "ocrbench": TextRichTask(
        split="test", measure="ocrbench_accuracy", answers="answer", spoken=str.strip,
        columns=("dataset", "question_type"), prompt="{question}", max_new_tokens=128,
        score=lambda said, references, columns: ocrbench(
            said, references, spaces=columns["dataset"] != "HME100k"
        ),
        part=ocrbench_part,
    ),
}  # fmt: skip
"""By name; the folder of a benchmark is called so too."""
