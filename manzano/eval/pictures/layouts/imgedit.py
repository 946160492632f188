"""ImgEdit-Bench, its Basic set: nine kinds of edits (Ye et al., arXiv 2505.20275).

prompts   Benchmark/Basic/basic_edit.json: key -> {id, prompt, edit_type}
images    the folder in which the pictures are found by their id (from Benchmark.tar)
folder    KEY.png
"""

import shlex
from functools import partial
from pathlib import Path

from manzano.eval.pictures.layouts.layout import Item, Layout, file_name, has, read_json, words


class ImgEdit(Layout):
    suite = "imgedit"
    edits = True
    expected = "basic_edit.json of PKU-YuanGroup/ImgEdit, its pictures in --images DIR"

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        if prompts.suffix != ".json" or not prompts.is_file():
            return False
        records = read_json(prompts)
        first = next(iter(records.values()), None) if isinstance(records, dict) else None
        return has(first, "id", "prompt", "edit_type")

    @property
    def sources(self) -> Path:
        return self.images or self.prompts.parent

    def items(self) -> list[Item]:
        records = read_json(self.prompts)
        items = [self._item(*pair) for pair in enumerate(records.items())]
        if not any((self.sources / words(item.facts["id"])).is_file() for item in items):
            raise ValueError(
                f"{self.sources} has none of the pictures that {self.prompts} asks to be edited, "
                f"such as {items[0].facts['id']}: give the folder of ImgEdit's pictures as --images"
            )
        return items

    def _item(self, place: int, pair: tuple[str, dict]) -> Item:
        key, facts = pair
        if not has(facts, "id", "prompt", "edit_type"):
            raise ValueError(f"edit {key!r} of {self.prompts} lacks id, prompt or edit_type")
        return Item(
            key=key, prompt=words(facts["prompt"]), task=self.suite, group=facts["edit_type"],
            place=place, image=partial(str, self.sources / words(facts["id"])), facts=facts,
        )  # fmt: skip

    def data_files(self) -> list[Path]:
        names = sorted({words(facts["id"]) for facts in read_json(self.prompts).values()})
        return [self.prompts, *filter(Path.is_file, (self.sources / name for name in names))]

    def files(self, item: Item) -> tuple[str, ...]:
        return (file_name(item.key, ".png"),)

    def scorer(self, height: int, width: int) -> str:
        prompts, sources = shlex.quote(str(self.prompts.resolve())), self.sources.resolve()
        return (
            "# In Benchmark/Basic of a clone of github.com/PKU-YuanGroup/ImgEdit: openai, tqdm,\n"
            "# tenacity, and a key for GPT-4o, written into basic_bench.py.\n"
            f"python basic_bench.py --result_img_folder {self.quoted} --edit_json {prompts} "
            f"--origin_img_root {shlex.quote(str(sources))} --prompts_json prompts.json\n"
            f"python step1_get_avgscore.py --result_json {self.quoted}/result.json "
            f"--average_score_json {self.quoted}/average_score.json\n"
            f"python step2_typescore.py --average_score_json {self.quoted}/average_score.json "
            f"--basic_edit {prompts} --typescore_json {self.quoted}/typescore.json"
        )
