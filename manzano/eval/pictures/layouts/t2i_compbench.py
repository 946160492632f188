"""T2I-CompBench(++): compositions (Huang et al., arXiv 2307.06350).

    prompts   examples/dataset/, or one CATEGORY_val.txt of it: a prompt a line
    folder    CATEGORY/samples/PROMPT_000000.png, ten pictures a prompt, numbered on over all

The scorers read the prompt off the file's name up to the first "_", and the number after it.
"""

import re
from pathlib import Path

from manzano.eval.pictures.layouts.layout import LONGEST_NAME, Item, Layout, read_text

BLIP = (
    "cd BLIPvqa_eval && python BLIP_vqa.py --out_dir={folder}/",
    "annotation_blip/vqa_result.json",
)
CATEGORIES = {
    "color": BLIP,
    "shape": BLIP,
    "texture": BLIP,
    "spatial": (
        "cd UniDet_eval && python 2D_spatial_eval.py --outpath={folder}",
        "labels/annotation_obj_detection_2d/vqa_result.json",
    ),
    "3d_spatial": (
        "cd UniDet_eval && python 3D_spatial_eval.py --outpath={folder}",
        "labels/annotation_obj_detection_3d/vqa_result.json",
    ),
    "numeracy": (
        "cd UniDet_eval && python numeracy_eval.py --outpath={folder}",
        "annotation_num/vqa_result.json",
    ),
    "non_spatial": (
        "python CLIPScore_eval/CLIP_similarity.py --outpath={folder}",
        "annotation_clip/vqa_result.json",
    ),
    "complex": (
        "cd BLIPvqa_eval && python BLIP_vqa.py --out_dir={folder}/ && "
        "cd ../UniDet_eval && python 2D_spatial_eval.py --complex=True --outpath={folder} && "
        "cd .. && python CLIPScore_eval/CLIP_similarity.py --complex=True --outpath={folder} && "
        "ln -sfn labels/annotation_obj_detection_2d {folder}/annotation_obj_detection && "
        "cd 3_in_1_eval && python 3_in_1.py --outpath={folder}",
        "annotation_3_in_1/vqa_result.json",
    ),
}
"""The scorer of each category, and the file in which its scores stand."""


class T2ICompBench(Layout):
    suite = "t2i-compbench"
    per_prompt = 10
    expected = (
        "the folder examples/dataset of Karine-Huang/T2I-CompBench, or a CATEGORY_val.txt of it "
        f"({', '.join(CATEGORIES)})"
    )

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        return bool(cls._paths(prompts))

    @staticmethod
    def _paths(prompts: Path) -> dict[str, Path]:
        """The file of each category that there is."""
        paths = {category: prompts / f"{category}_val.txt" for category in CATEGORIES}
        if prompts.is_file():
            return {c: prompts for c, path in paths.items() if path.name == prompts.name}
        return {category: path for category, path in paths.items() if path.is_file()}

    def items(self) -> list[Item]:
        return [
            self._item(category, place, line)
            for category, path in self._paths(self.prompts).items()
            for place, line in enumerate(read_text(path).rstrip().splitlines())
        ]

    def _item(self, category: str, place: int, line: str) -> Item:
        prompt = line.split("\t")[0].strip()
        problem = ""
        if unfit := sorted(set(prompt) & set("_/\0")):
            problem = f"the scorer reads it off the file's name, where {unfit} cannot stand"
        elif len(f"{prompt}_000000.png".encode()) > LONGEST_NAME:
            problem = "the scorer reads it off the file's name, for which it is too long"
        return Item(
            key=f"{category}/{place:04d}", prompt=prompt, task=f"{self.suite}-{category}",
            group=category, place=place, problem=problem,
        )  # fmt: skip

    def data_files(self) -> list[Path]:
        return list(self._paths(self.prompts).values())

    def files(self, item: Item) -> tuple[str, ...]:
        words = re.sub(r"[_/\0]", " ", item.prompt)
        while len(f"{words}_000000.png".encode()) > LONGEST_NAME:
            words = words[:-1]
        first = item.place * self.per_prompt
        return tuple(
            f"{item.group}/samples/{words}_{first + index:06d}.png"
            for index in range(self.per_prompt)
        )

    def scorer(self, height: int, width: int) -> str:
        runs = "\n".join(
            f"({CATEGORIES[category][0].format(folder=f'{self.quoted}/{category}')})"
            for category in self._paths(self.prompts)
        )
        return (
            "# In a clone of github.com/Karine-Huang/T2I-CompBench: diffusers 0.15.0.dev0 and its\n"
            "# requirements, spaCy's en_core_web_sm, CUDA; UniDet's and DPT's weights.\n" + runs
        )
