"""GenEval: objects, colours, counts and positions (Ghosh et al., arXiv 2310.11513).

prompts   prompts/evaluation_metadata.jsonl: a line a prompt, {tag, include, exclude, prompt}
folder    00000/metadata.jsonl, the line itself; 00000/samples/0000.png to 0003.png
"""

from pathlib import Path

from manzano.eval.pictures.layouts.layout import Item, Layout, has, read_json_lines, words


class GenEval(Layout):
    suite = "geneval"
    per_prompt = 4
    expected = "evaluation_metadata.jsonl of djghosh13/geneval"

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        if prompts.suffix != ".jsonl" or not prompts.is_file():
            return False
        first = next(read_json_lines(prompts), ("", None))[1]
        return has(first, "tag", "include", "prompt")

    def items(self) -> list[Item]:
        return [
            self._item(place, line, facts)
            for place, (line, facts) in enumerate(read_json_lines(self.prompts))
        ]

    def _item(self, place: int, line: str, facts: dict) -> Item:
        if not has(facts, "tag", "include", "prompt"):
            raise ValueError(f"prompt {place + 1} of {self.prompts} lacks tag, include or prompt")
        return Item(
            key=f"{place:05d}", prompt=words(facts["prompt"]), task=self.suite, group=facts["tag"],
            place=place, facts={"line": line, "metadata": facts},
        )  # fmt: skip

    def files(self, item: Item) -> tuple[str, ...]:
        samples = (f"{item.key}/samples/{index:04d}.png" for index in range(self.per_prompt))
        return (*samples, f"{item.key}/metadata.jsonl")

    def contents(self, item, pictures, source):
        return (*pictures, item.facts["line"])

    def scorer(self, height: int, width: int) -> str:
        results = self.beside("results.jsonl")
        return (
            "# In a clone of github.com/djghosh13/geneval: Python 3.8, mmdet 2.x with mmcv-full,\n"
            "# open_clip, a CUDA device; evaluation/download_models.sh fetches the detector.\n"
            f"python evaluation/evaluate_images.py {self.quoted} --outfile {results} "
            "--model-path OBJECT_DETECTOR_FOLDER\n"
            f"python evaluation/summary_scores.py {results}"
        )


class Concepts(GenEval):
    """GenEval's format and layout with prompts of the demo's concepts, judged here."""

    suite = "concepts"
    expected = "a file in the format of GenEval's evaluation_metadata.jsonl, or nothing"

    def scorer(self, height: int, width: int) -> str:
        return "# The rules of this suite are scored here: GenEval's detector does not know them."
