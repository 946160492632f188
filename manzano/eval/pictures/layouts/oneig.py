"""OneIG-Bench: alignment, text, reasoning, style, diversity (Chang et al., arXiv 2506.07977).

prompts   OneIG-Bench.csv or OneIG-Bench-ZH.csv: category, id, prompt_en or prompt_cn, ...
folder    CLASS/MODEL/ID.webp, four pictures as a 2 x 2 grid
"""

import csv
import io
from pathlib import Path

from manzano.eval.pictures.layouts.layout import Item, Layout, file_name, grid, read_text

CLASSES = {
    "Anime_Stylization": "anime",
    "Portrait": "human",
    "General_Object": "object",
    "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
    "Multilingualism": "multilingualism",
}
PROMPTS = {"prompt_en": "EN", "prompt_cn": "ZH"}
"""The column of the prompt, and what the scorer calls its language."""


def texts_path(prompts: Path) -> Path:
    """Where OneIG's repository has the texts that drawings are to show, beside its prompts."""
    return prompts.parent / "scripts" / "text" / "text_content.csv"


class OneIG(Layout):
    suite = "oneig"
    per_prompt = 4
    expected = "OneIG-Bench.csv or OneIG-Bench-ZH.csv of OneIG-Bench/OneIG-Benchmark"

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        if prompts.suffix != ".csv" or not prompts.is_file():
            return False
        first = next(csv.reader(io.StringIO(read_text(prompts))), [])
        return {"category", "id"} <= set(first) and bool(PROMPTS.keys() & set(first))

    def truth_files(self) -> list[Path]:
        return list(filter(Path.is_file, [texts_path(self.prompts)]))

    def items(self) -> list[Item]:
        rows = csv.DictReader(io.StringIO(read_text(self.prompts)))
        return [self._item(place, row) for place, row in enumerate(rows)]

    @property
    def column(self) -> str:
        header = next(csv.reader(io.StringIO(read_text(self.prompts))))
        return next(name for name in PROMPTS if name in header)

    def _item(self, place: int, row: dict[str, str]) -> Item:
        category, number = row["category"], row["id"]
        if category not in CLASSES:
            raise ValueError(
                f"prompt {place + 1} of {self.prompts} has the category {category!r}; there are "
                f"{', '.join(CLASSES)}"
            )
        if len(number or "") != 3:
            raise ValueError(
                f"prompt {place + 1} of {self.prompts} has the id {number!r}: the scorer looks for "
                "files that begin with three digits"
            )
        prompt = next((row[name] for name in PROMPTS if row.get(name)), "")
        return Item(
            key=f"{CLASSES[category]}/{number}", prompt=prompt, task=self.suite,
            group=CLASSES[category], place=place, facts=row,
        )  # fmt: skip

    def files(self, item: Item) -> tuple[str, ...]:
        return (f"{item.group}/{self.model}/{file_name(item.facts['id'], '.webp')}",)

    def contents(self, item, pictures, source):
        return (grid(pictures),)

    def scorer(self, height: int, width: int) -> str:
        language, images, model = PROMPTS[self.column], self.quoted, self.model
        common = f'--mode {language} --model_names {model} --image_grid "2,2"'
        classes = "anime human object" + " multilingualism" * (language == "ZH")
        every = f"{classes} text reasoning"
        return (
            "# In a clone of github.com/OneIG-Bench/OneIG-Benchmark: Python 3.10, torch 2.6 with\n"
            "# CUDA 11.8, its requirements.txt, the weights of CSD, CLIP and DreamSim.\n"
            f"python -m scripts.alignment.alignment_score --image_dirname {images} {common} "
            f"--class_items {classes}\n"
            f"python -m scripts.text.text_score --image_dirname {images}/text {common}\n"
            f"python -m scripts.reasoning.reasoning_score --image_dirname {images}/reasoning "
            f"{common}\n"
            f"python -m scripts.style.style_score --image_dirname {images}/anime {common}\n"
            f"python -m scripts.diversity.diversity_score --image_dirname {images} {common} "
            f"--class_items {every}"
        )
