"""Manzano: one model that reads images, and writes text and image ids (arXiv 2509.16197).

    image -- ViT --+-- continuous adapter --> embeddings in place of <image> --+
                   |                                                          v
                   +-- discrete adapter --> ids in place of <target> --> language model --> text ids
                                                                                      --> image ids

Understanding reads continuous embeddings, generation writes discrete ids; both come from the same
ViT, so the language model meets one kind of picture. The image decoder (manzano/decoder) turns ids
into pixels.

Letters: B batch, T tokens, D width, N tokens an image, P pictures, M <image> blocks in the batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput
from vector_quantize_pytorch import FSQ

from manzano.configuration import ManzanoConfig
from manzano.llm.loss import count_targets, unified_loss
from manzano.llm.sampling import RestrictToRange, sample_image_ids
from manzano.tokenizer.fsq import restore_tables
from manzano.tokenizer.hybrid import HybridTokenizer


@dataclass
class ManzanoOutput(ModelOutput):
    """`loss` and its unweighted `terms` where labels were given; `logits` (B, T, joint size)."""

    loss: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None


def splice(embeds: Tensor, where: Tensor, blocks: Tensor) -> Tensor:
    """embeds (B, T, D) with blocks (M, N, D), in row-major order, where `where` (B, T) is True.

    Raises:
        ValueError: if there are not M * N such positions.
    """
    values = rearrange(blocks, "m n d -> (m n) d").to(embeds.dtype)
    if int(where.sum()) != len(values):
        raise ValueError(
            f"the text has {int(where.sum())} image placeholders but {len(blocks)} images of "
            f"{blocks.shape[1]} tokens were given: each image needs exactly {blocks.shape[1]}"
        )
    return embeds.masked_scatter(where[..., None], values)


class ManzanoForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Vision tokenizer and language model over a joint vocabulary."""

    config_class = ManzanoConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    output_modalities = ("image", "text")
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    supports_gradient_checkpointing = True

    def __init__(self, config: ManzanoConfig):
        super().__init__(config)
        self.vocabulary = config.joint_vocabulary
        assert isinstance(config.text_config, PreTrainedConfig)  # its __post_init__ saw to it
        config.text_config.vocab_size = self.vocabulary.size
        self.vision = HybridTokenizer(config.vision)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module):
        """The parts initialise themselves; tables that checkpoints lack are made after loading."""
        if isinstance(module, FSQ):
            restore_tables(module, self.config.vision.levels)

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def embed(
        self, input_ids: Tensor, pixel_values: Tensor | None, image_index: Tensor | None
    ) -> Tensor:
        """input_ids (B, T) -> (B, T, D), continuous embeddings of pictures in place of `<image>`.

        Args:
            pixel_values: (P, 3, H, W) distinct pictures, each encoded once.
            image_index: (M,) which picture each block of `<image>` shows, in row-major order; by
                default the pictures in order.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return embeds
        blocks = self.vision.continuous(pixel_values)  # (P, N, D)
        blocks = blocks if image_index is None else blocks[image_index]
        return splice(embeds, input_ids == self.vocabulary.image, blocks)

    @torch.no_grad()
    def target_ids(self, pixel_values: Tensor) -> Tensor:
        """Joint ids (Q, N) of the pictures to draw, (Q, 3, H, W)."""
        return self.vision.discrete(pixel_values) + self.vocabulary.image_offset

    def fill_targets(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """tokens (B, T), `<target>` replaced by the joint ids (Q, N) of the pictures, in order."""
        where = tokens == self.vocabulary.target
        if int(where.sum()) != ids.numel():
            raise ValueError(
                f"{int(where.sum())} <target> tokens for {len(ids)} target pictures of "
                f"{ids.shape[1]} ids"
            )
        return tokens.masked_scatter(where, ids)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        target_pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        totals: dict[str, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> ManzanoOutput:
        """One pass over (packed) sequences.

        Args:
            input_ids: (B, T) joint ids; `<image>` and `<target>` where pictures go.
            pixel_values, image_index: see `embed`.
            target_pixel_values: (Q, 3, H, W) pictures whose ids take the place of `<target>`.
            labels: (B, T) joint ids or `<target>`, -100 where nothing is predicted; not shifted.
            totals: targets per modality in the global batch (see `unified_loss`); by default those
                of this batch.
            position_ids: (B, T); where several sequences are packed in a row without
                attention_mask, each restarts at 0 and there is no attention across them.
        """
        ids = None if target_pixel_values is None else self.target_ids(target_pixel_values)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("there is nothing to read: give input_ids or inputs_embeds")
            if ids is not None:
                input_ids = self.fill_targets(input_ids, ids)
            inputs_embeds = self.embed(input_ids, pixel_values, image_index)
        out = self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, **kwargs,
        )  # fmt: skip
        loss = terms = None
        if labels is not None:
            if ids is not None:
                labels = self.fill_targets(labels, ids)
            if totals is None:
                counts = count_targets(labels, self.vocabulary)
                totals = {k: torch.tensor(n, device=labels.device) for k, n in counts.items()}
            loss, terms = unified_loss(
                out.logits, labels, self.vocabulary, totals, self.config.image_weight
            )
        return ManzanoOutput(
            loss=loss, terms=terms, logits=out.logits, past_key_values=out.past_key_values
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_mode: Literal["text", "image"] = "text",
        **kwargs,
    ) -> Tensor:
        """Continues left-padded prompts (B, T) by text or by one picture each.

        Args:
            generation_mode: "text" returns joint ids (B, new) by transformers' `generate`, which
                takes the further keyword arguments; "image" returns image ids (B, N)
                (`sample_image_ids` takes them) for prompts that end in `<img_start>`, or in a size
                token after it. With a `guidance_scale` other than 1, guidance leads away from a
                picture of nothing.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds = self.embed(input_ids, pixel_values, None)
        v = self.vocabulary
        if generation_mode == "text":
            defaults = {
                "max_new_tokens": 64,
                "do_sample": False,
                "eos_token_id": v.end,
                "pad_token_id": v.pad,
                "suppress_tokens": [v.img_start, *v.never_said],
            }
            processors = [RestrictToRange(0, v.text_size), *kwargs.pop("logits_processor", ())]
            return self.language_model.generate(
                inputs_embeds=embeds, attention_mask=attention_mask,
                logits_processor=processors, **(defaults | kwargs),
            )  # fmt: skip
        if generation_mode != "image":
            raise ValueError(f"generation_mode is 'text' or 'image', got {generation_mode!r}")
        if kwargs.get("guidance_scale", 1.0) != 1.0:
            nothing, mask = self.unconditional_prompt(input_ids)
            embeds = torch.cat([embeds, self.embed(nothing, None, None)])
            attention_mask = torch.cat([attention_mask, mask])
        return sample_image_ids(
            self.language_model, embeds, attention_mask, num_tokens=self.vision.num_tokens,
            image_offset=v.image_offset, image_size=v.image_size, **kwargs,
        )  # fmt: skip

    def unconditional_prompt(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts that ask for a picture of nothing, of the shapes that `like` (B, T) asks for,
        and their mask, left-padded to (B, T): what `data_mix.sequences.unconditional` trains."""
        v = self.vocabulary
        begin = [v.user, v.assistant, v.img_start]
        if like.shape[1] < len(begin):
            raise ValueError(
                f"a prompt of {like.shape[1]} tokens asks for no picture: it takes at least "
                "<|user|><|assistant|><img_start>"
            )
        ids = torch.full_like(like, v.pad)
        for row, last in zip(ids, like[:, -1].tolist(), strict=True):
            prompt = row.new_tensor(begin + [last] * (last in v.sizes))
            row[-len(prompt) :] = prompt
        return ids, (ids != v.pad).long()


AutoModel.register(ManzanoConfig, ManzanoForConditionalGeneration, exist_ok=True)
