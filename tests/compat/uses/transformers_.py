"""transformers: its models from small configurations, in a plain LightningModule, with dicts as batches."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader

from tests.compat.keeper import Keeper
from tests.compat.kit import USES, Module, Use, images, trainer

VOCABULARY, LENGTH, PAD, IGNORED = 40, 12, 0, -100
BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 32, "pad_token_id": PAD,
}  # fmt: skip


def texts(n: int = 96, length: int = LENGTH) -> dict[str, Tensor]:
    """Sequences of several lengths, padded, in which some tokens are more frequent in one class than in others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    ids = torch.randint(10, VOCABULARY, (n, length), generator=generator)
    told = torch.rand(n, length, generator=generator) < 0.3
    ids = torch.where(told, 4 + labels[:, None], ids)
    ids[:, 0] = 1
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (n, 1), generator=generator)
    return {"input_ids": ids.where(mask, PAD), "attention_mask": mask.long(), "labels": labels}


def next_tokens(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """What DataCollatorForLanguageModeling(mlm=False) makes: the tokens again, without padding."""
    return data | {"labels": data["input_ids"].where(data["attention_mask"] > 0, IGNORED)}


def masked(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """What DataCollatorForLanguageModeling makes: some tokens are replaced, only these have labels."""
    hidden = (torch.rand(data["input_ids"].shape) < 0.3) & (data["attention_mask"] > 0)
    return data | {
        "input_ids": data["input_ids"].masked_fill(hidden, 3),
        "labels": data["input_ids"].where(hidden, IGNORED),
    }


def tagged(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """A class for each token, none for the first one and for padding."""
    tags = (data["input_ids"] % 3).where(data["attention_mask"] > 0, IGNORED)
    tags[:, 0] = IGNORED
    return data | {"labels": tags}


def asked(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where an answer begins and ends."""
    start = 1 + data.pop("labels") % 3
    return data | {"start_positions": start, "end_positions": start + 1}


def answered(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Targets of another length than the input."""
    short = texts(len(data["labels"]), 8)
    return data | {"labels": short["input_ids"].where(short["attention_mask"] > 0, IGNORED)}


def packed() -> dict[str, Tensor]:
    """What run_clm.py's group_texts makes: blocks of one length, labels are the tokens."""
    ids = torch.randint(0, VOCABULARY, (96, LENGTH))
    return {"input_ids": ids, "labels": ids.clone()}


def pictures(side: int = 32) -> dict[str, Tensor]:
    x, y = images(96, side)
    return {"pixel_values": x, "labels": y}


def maps(side: int = 32) -> dict[str, Tensor]:
    x, y = images(48, side)
    return {
        "pixel_values": x,
        "labels": (y[:, None, None] + torch.arange(side)[:, None] // 16).expand(-1, -1, side) % 4,
    }


def sounds(n: int = 64, length: int = 1600) -> dict[str, Tensor]:
    """Waves of several lengths, padded, of a frequency for each class."""
    labels = torch.arange(n) % 4
    wave = torch.sin(torch.arange(length) * 0.05 * (1 + labels[:, None])) + 0.1 * torch.randn(n, length)
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (n, 1))
    return {"input_values": wave * mask, "attention_mask": mask.long(), "labels": labels}


def captioned() -> dict[str, Tensor]:
    data = texts()
    data["input_ids"][torch.arange(96), data["attention_mask"].sum(1) - 1] = VOCABULARY - 1  # end of text
    data["pixel_values"] = images(96, 32)[0]
    del data["labels"]
    return data


def loaders(data: dict[str, Tensor], batch_size: int = 16) -> tuple[Any, Any]:
    """A training loader of the first third, a validation loader of the others; batches are dicts."""
    n = len(next(iter(data.values())))
    rows = [{key: part[i] for key, part in data.items()} for i in range(n)]
    return DataLoader(rows[: n // 3], batch_size, shuffle=True), DataLoader(rows[n // 3 :], batch_size)


def loss(net: Any, batch: Any) -> Tensor:
    return net(**batch).loss


def contrast(net: Any, batch: Any) -> Tensor:
    return net(**batch, return_loss=True).loss


def flat(calls: list[Any], batch: Any) -> Tensor:
    return calls[0]


def over_space(calls: list[Any], batch: Any) -> Tensor:
    return calls[0].mean((2, 3))


def over_tokens(calls: list[Any], batch: Any) -> Tensor:
    mask = batch["attention_mask"][..., None].double()
    return (calls[0].double() * mask).sum(1) / mask.sum(1)


def labelled_tokens(calls: list[Any], batch: Any) -> Tensor:
    return calls[0][batch["labels"] != IGNORED]


def token_labels(batch: Any) -> Tensor:
    return batch["labels"][batch["labels"] != IGNORED]


def predicting_tokens(calls: list[Any], batch: Any) -> Tensor:
    """Those that a next token is predicted from."""
    return calls[0][:, :-1][batch["labels"][:, 1:] != IGNORED]


def sequence_labels(batch: Any) -> Tensor:
    return batch["labels"]


def run(
    make: Any, data: Any, head: str, rows: Any, labels: Any, watch: Any, loss: Any = loss, **keeper: Any
) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    model = make()
    kept = Keeper(lambda module: module.net.get_submodule(head), rows, labels, **keeper)
    monitor = watch()
    trainer([monitor, kept]).fit(Module(model, loss, 0.05), *loaders(data()))
    return kept, monitor


def small(name: str, **arguments: Any) -> Any:
    """A model of this class, from its own configuration."""
    kind = getattr(transformers, name)
    return lambda: kind(kind.config_class(**arguments))


class Summary(Module):
    """A validation step that generates as well, as those of summarisation and translation do."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.net.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=5, num_beams=2
        )


def summarise(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    net = small(
        "BartForConditionalGeneration", vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=32, pad_token_id=PAD, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=2,
    )()  # fmt: skip
    keeper = Keeper(lambda module: module.net.lm_head, labelled_tokens, None)  # the first call; generation comes after
    monitor = watch()
    trainer([monitor, keeper]).fit(Summary(net, loss, 0.05), *loaders(answered(texts())))
    return keeper, monitor


NEXT = "rows are the tokens that a next one is predicted from"
MEANT = "rows are the tokens that have a label"
CLASSIFIERS: dict[str, tuple[Any, Any, str]] = {
    "BertForSequenceClassification": (BERT | {"num_labels": 4}, texts, "classifier"),
    "DistilBertForSequenceClassification": (
        {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "num_labels": 4,
         "max_position_embeddings": 32}, texts, "classifier"),
    "ViTForImageClassification": (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "image_size": 32, "patch_size": 8, "num_labels": 4}, pictures, "classifier"),
    "ConvNextV2ForImageClassification": (
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 64, "num_labels": 4},
        partial(pictures, 64), "classifier"),
    "SwinForImageClassification": (
        {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32, "patch_size": 4,
         "num_labels": 4}, pictures, "classifier"),
    "Wav2Vec2ForSequenceClassification": (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "conv_dim": (16, 16), "conv_stride": (5, 5), "conv_kernel": (10, 5), "num_feat_extract_layers": 2,
         "feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 16,
         "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 24, "num_labels": 4}, sounds, "classifier"),
}  # fmt: skip
for name, (arguments, data, head) in CLASSIFIERS.items():
    made = partial(run, small(name, **arguments), data, head, flat, sequence_labels)
    USES.append(Use("transformers", name, made))

LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": PAD, "pad_token_id": PAD,
}  # fmt: skip
CLIP = {
    "text_config": {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "max_position_embeddings": LENGTH, "eos_token_id": VOCABULARY - 1},
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "image_size": 32, "patch_size": 8},
    "projection_dim": 24,
}  # fmt: skip
SEGFORMER = {
    "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
    "sr_ratios": [4, 2, 1, 1], "decoder_hidden_size": 24, "num_labels": 4,
}  # fmt: skip
USES += [
    Use("transformers", "RobertaForTokenClassification", partial(
        run, small("RobertaForTokenClassification", **(BERT | {"num_labels": 3})), lambda: tagged(texts()),
        "classifier", labelled_tokens, token_labels), why=MEANT),
    Use("transformers", "BertForQuestionAnswering", partial(
        run, small("BertForQuestionAnswering", **BERT), lambda: asked(texts()), "qa_outputs", over_tokens, None),
        why="no token has a label: the tokens of a sequence are averaged, without padding"),
    Use("transformers", "BertForMaskedLM", partial(
        run, small("BertForMaskedLM", **BERT), lambda: masked(texts()), "cls.predictions.decoder", labelled_tokens,
        None), why=MEANT),
    Use("transformers", "GPT2LMHeadModel", partial(
        run, small("GPT2LMHeadModel", **GPT2), lambda: next_tokens(texts()), "lm_head", predicting_tokens, None),
        why=NEXT),
    Use("transformers", "LlamaForCausalLM, packed", partial(
        run, small("LlamaForCausalLM", **LLAMA), packed, "lm_head", predicting_tokens, None), why=NEXT),
    Use("transformers", "T5ForConditionalGeneration", partial(
        run, small("T5ForConditionalGeneration", **T5), lambda: answered(texts()), "lm_head", labelled_tokens, None),
        why=MEANT),
    Use("transformers", "BartForConditionalGeneration, generating", summarise, why=MEANT),
    Use("transformers", "CLIPModel", partial(
        run, small("CLIPModel", **CLIP), captioned, "text_projection", flat, None, loss=contrast, output=True),
        {"layer": "net.text_projection"}, "the embedding of the text; that of the image is as right"),
    Use("transformers", "SegformerForSemanticSegmentation", partial(
        run, small("SegformerForSemanticSegmentation", **SEGFORMER), maps, "decode_head.classifier", over_space, None),
        why="the map is averaged over space, so a row has no class"),
]  # fmt: skip
