"""The joint objective, against sums written out by hand."""

import pytest
import torch

from manzano.llm.loss import IGNORE, count_targets, unified_loss
from manzano.llm.vocabulary import JointVocabulary

VOCABULARY = JointVocabulary(
    text_size=9, image_size=4, end=0, pad=1, user=2, assistant=3, img_start=4, img_end=5,
    image=6, target=7,
)  # fmt: skip
LABELS = torch.tensor([[8, IGNORE, 3, 4, 9, 12, 5, 0], [IGNORE, 8, 8, IGNORE, 10, 5, IGNORE, 2]])


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(2, 8, VOCABULARY.size, generator=torch.Generator().manual_seed(0))


def totals_of(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(n) for name, n in count_targets(labels, VOCABULARY).items()}


def test_text_counts_one_and_image_a_half(logits):
    text, image = [], []
    for row, labels in zip(logits.log_softmax(-1), LABELS.tolist(), strict=True):
        for position, label in enumerate(labels):
            if position and label != IGNORE:
                nats = -float(row[position - 1, label])
                (image if label >= 9 else text).append(nats)
    loss, terms = unified_loss(logits, LABELS, VOCABULARY, totals_of(LABELS))
    assert (len(text), len(image)) == (8, 3)
    assert count_targets(LABELS, VOCABULARY) == {"text": 8, "image": 3}
    assert float(terms["text"]) == pytest.approx(sum(text) / 8, rel=1e-6)
    assert float(terms["image"]) == pytest.approx(sum(image) / 3, rel=1e-6)
    assert float(loss) == pytest.approx(sum(text) / 8 + 0.5 * sum(image) / 3, rel=1e-6)


def test_micro_batches_add_up_to_the_whole(logits):
    totals = totals_of(LABELS)
    whole, _ = unified_loss(logits, LABELS, VOCABULARY, totals)
    parts = [
        unified_loss(logits[i : i + 1], LABELS[i : i + 1], VOCABULARY, totals)[0] for i in (0, 1)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_a_batch_without_targets_has_loss_zero_and_a_gradient():
    logits = torch.randn(1, 4, VOCABULARY.size, requires_grad=True)
    labels = torch.full((1, 4), IGNORE)
    loss, _ = unified_loss(logits, labels, VOCABULARY, totals_of(labels))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None and not logits.grad.any()


def test_placeholders_of_pictures_to_draw_count_as_image_targets():
    labels = torch.tensor([[IGNORE, 4, 7, 7, 7, 5, 0]])
    assert count_targets(labels, VOCABULARY) == {"text": 3, "image": 3}
