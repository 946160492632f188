"""DPG-Bench: dense prompts (ELLA, Hu et al., arXiv 2403.05135).

prompts   dpg_bench/prompts/: a text file a prompt
folder    STEM.png, four pictures of side R as a 2 x 2 grid of side 2R
"""

from pathlib import Path

from manzano.eval.pictures.layouts.layout import Item, Layout, file_name, grid, read_text
from manzano.eval.pictures.layouts.t2i_compbench import T2ICompBench


class DPG(Layout):
    suite = "dpg"
    per_prompt = 4
    expected = "the folder dpg_bench/prompts of TencentQQGYLab/ELLA, a .txt a prompt"

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        has_texts = prompts.is_dir() and any(prompts.glob("*.txt"))
        return has_texts and not T2ICompBench.recognises(prompts)

    def items(self) -> list[Item]:
        return [
            self._item(place, path) for place, path in enumerate(sorted(self.prompts.glob("*.txt")))
        ]

    def _item(self, place: int, path: Path) -> Item:
        if "." in path.stem:
            raise ValueError(
                f"{path}: the scorer reads a name up to its first dot and would take this for "
                f"{path.name.split('.')[0]!r}: rename it"
            )
        problem, prompt = "", ""
        try:
            prompt = read_text(path).strip()
        except ValueError as error:
            problem = str(error)
        return Item(
            key=path.stem, prompt=prompt, task=self.suite, group="", place=place, problem=problem
        )

    def files(self, item: Item) -> tuple[str, ...]:
        return (file_name(item.key, ".png"),)

    def contents(self, item, pictures, source):
        return (grid(pictures),)

    def check_size(self, height: int, width: int) -> None:
        if height != width:
            raise ValueError(
                f"DPG-Bench takes its grid apart as squares: give one --height and --width, got "
                f"{height} and {width}"
            )

    def scorer(self, height: int, width: int) -> str:
        return (
            "# In a clone of github.com/TencentQQGYLab/ELLA: modelscope with mPLUG-large VQA,\n"
            "# accelerate, pandas and CUDA devices (PROCESSES=8 of them by default).\n"
            f"bash dpg_bench/dist_eval.sh {self.quoted} {height}"
        )
