"""Tiny samples of every task, drawn here, and folders of them."""

from pathlib import Path

from PIL import Image

from manzano.data_mix.prepare import prepare
from manzano.data_mix.schema import Sample, Task, Turn, write_shards


def picture(index: int = 0, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, ((37 * index) % 256, (91 * index) % 256, 40))


def hole(size: tuple[int, int] = (8, 6)) -> Image.Image:
    """A mask with a white box."""
    mask = Image.new("L", size)
    mask.paste(255, (2, 1, 6, 4))
    return mask


def make_sample(like: Task = "understanding", index: int = 0, **changes) -> Sample:
    """A good sample of a task; `changes` to its fields may spoil it."""
    user = Turn(role="user", text=f"question {index}?")
    assistant = Turn(role="assistant", text=f"answer {index}")
    parts: dict = {
        "understanding": {"turns": (user, assistant), "images": (picture(index),)},
        "generation": {"turns": (user,), "target": picture(index)},
        "editing": {"turns": (user,), "images": (picture(index),), "target": picture(index + 1)},
        "text": {"turns": (assistant,)},
    }[like]
    base = {
        "key": f"{like}-{index:04d}",
        "task": like,
        "caption": f"picture {index}",
        "source": "drawn",
        "licence": "none",
        "concept": f"{like}/{index}",
        "extra": {"index": index},
    }
    return Sample(**(base | parts | changes))


def make_folder(folder: Path, task: Task = "understanding", *, num_train: int = 24) -> Path:
    """A prepared folder with two training shards and one test shard."""
    train = [make_sample(task, index) for index in range(num_train)]
    test = [make_sample(task, index) for index in range(num_train, num_train + 4)]
    write_shards(train, folder, "train", samples_per_shard=max(1, num_train // 2))
    write_shards(test, folder, "test")
    prepare(folder)
    return folder
