"""WISE: world knowledge in drawings (Niu et al., arXiv 2503.07265), WISE_Verified and the first.

prompts   data_verified/ or data/, or one of its three JSON files: [{prompt_id, Prompt, ...}]
folder    PROMPT_ID.png
"""

from pathlib import Path

from manzano.eval.pictures.layouts.layout import Item, Layout, has, read_json, words

NAMES = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")


class WISE(Layout):
    suite = "wise"
    expected = "the folder data_verified (or data) of PKU-YuanGroup/WISE, or a JSON file of it"

    @classmethod
    def recognises(cls, prompts: Path) -> bool:
        paths = cls._paths(prompts)
        return bool(paths) and _is_wise(read_json(paths[0]))

    @staticmethod
    def _paths(prompts: Path) -> list[Path]:
        """The three files of a folder, as merge.json beside them has all prompts again."""
        if prompts.is_file():
            return [prompts] if prompts.suffix == ".json" else []
        candidates = [prompts / f"{name}{end}.json" for name in NAMES for end in ("_verified", "")]
        return [path for path in candidates if path.is_file()]

    def items(self) -> list[Item]:
        records = []
        for path in self._paths(self.prompts):
            if not _is_wise(found := read_json(path)):
                raise ValueError(f"{path} holds no prompts of WISE, though others beside it do")
            records += found
        return [self._item(place, record) for place, record in enumerate(records)]

    def _item(self, place: int, record: dict) -> Item:
        number = record.get("prompt_id")
        if not isinstance(number, int):
            raise ValueError(
                f"prompt {place + 1} of {self.prompts} has the prompt_id {number!r}: it must be an "
                "integer, as the scorer looks for PROMPT_ID.png"
            )
        return Item(
            key=str(number), prompt=words(record.get("Prompt")), task=self.suite,
            group=str(record.get("Category", "")), place=place, facts=record,
        )  # fmt: skip

    @property
    def verified(self) -> bool:
        names = [n for p in self._paths(self.prompts) for n in (p.name, p.parent.name)]
        return any("verified" in name for name in names)

    def data_files(self) -> list[Path]:
        return self._paths(self.prompts)

    def files(self, item: Item) -> tuple[str, ...]:
        return (f"{item.key}.png",)

    def scorer(self, height: int, width: int) -> str:
        if self.verified:
            return (
                "# In a clone of github.com/PKU-YuanGroup/WISE: openai; Qwen3.5-35B-A3B served by\n"
                "# vLLM at VLLM_API_BASE.\n"
                f"IMAGE_DIR={self.quoted} bash eval_qwen.sh"
            )
        runs = "\n".join(
            f"python gpt_eval.py --json_path data/{name}.json --image_dir {self.quoted} "
            f"--output_dir {self.quoted}/Results/{name} --api_key KEY --model gpt-4o-2024-05-13 "
            f"--result_full {self.quoted}/Results/{name}_full_results.json "
            f"--result_scores {self.quoted}/Results/{name}_scores_results.jsonl"
            for name in NAMES
        )
        scores = " ".join(f"{self.quoted}/Results/{name}_scores_results.jsonl" for name in NAMES)
        return (
            "# In WISE_legacy of a clone of github.com/PKU-YuanGroup/WISE: openai and a key for\n"
            "# GPT-4o.\n"
            f"{runs}\npython Calculate.py {scores} --category all"
        )


def _is_wise(records) -> bool:
    return isinstance(records, list) and bool(records) and has(records[0], "prompt_id", "Prompt")
