"""peft: adapters on models of transformers, trained in a plain LightningModule."""

from __future__ import annotations

from typing import Any

import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from tests.compat.keeper import Keeper
from tests.compat.kit import Module, images, trainer, use

VOCABULARY, LENGTH, IGNORED = 40, 12, -100


def bert() -> Any:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32, num_labels=4,
        )
    )  # fmt: skip


def texts(n: int = 96) -> dict[str, Tensor]:
    """Sequences of several lengths, padded, in which some tokens are more frequent in one class than in others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    ids = torch.randint(10, VOCABULARY, (n, LENGTH), generator=generator)
    ids = torch.where(torch.rand(n, LENGTH, generator=generator) < 0.3, 4 + labels[:, None], ids)
    mask = torch.arange(LENGTH) < torch.randint(LENGTH // 2, LENGTH + 1, (n, 1), generator=generator)
    return {"input_ids": ids.where(mask, 0), "attention_mask": mask.long(), "labels": labels}


def next_tokens() -> dict[str, Tensor]:
    """What DataCollatorForLanguageModeling(mlm=False) makes."""
    data = texts()
    return data | {"labels": data["input_ids"].where(data["attention_mask"] > 0, IGNORED)}


def loss(net: Any, batch: Any) -> Tensor:
    return net(**batch).loss


def fit(watch: Any, keeper: Keeper, net: Any, data: dict[str, Tensor]) -> tuple[Keeper, Any]:
    n = len(next(iter(data.values())))
    rows = [{key: part[i] for key, part in data.items()} for i in range(n)]
    monitor = watch()
    trainer([monitor, keeper]).fit(
        Module(net, loss, 0.05), DataLoader(rows[: n // 3], 16, shuffle=True), DataLoader(rows[n // 3 :], 16)
    )
    return keeper, monitor


def classifying(module: Any) -> Any:
    return module.net.base_model.model.classifier  # what modules_to_save wrapped


def predicting_tokens(calls: list[Any], batch: Any) -> Tensor:
    """Those that a next token is predicted from; tokens in front of the batch's own are the prompt's."""
    own = calls[0][:, calls[0].shape[1] - batch["labels"].shape[1] :]
    return own[:, :-1][batch["labels"][:, 1:] != IGNORED]


NEXT = "rows are the tokens that a next one is predicted from"


@use("peft", "LoRA, text classifier")
def lora_classifier(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules=["query", "value"])
    keeper = Keeper(classifying, labels=lambda batch: batch["labels"])
    return fit(watch, keeper, get_peft_model(bert(), config), texts())


@use("peft", "LoRA, image classifier, modules_to_save")
def lora_images(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
            patch_size=8, num_labels=4,
        )
    )  # fmt: skip
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    x, y = images(96, 32)
    keeper = Keeper(classifying, labels=lambda batch: batch["labels"])
    return fit(watch, keeper, get_peft_model(model, config), {"pixel_values": x, "labels": y})


@use("peft", "LoRA on all linear layers, Llama", why=NEXT)
def lora_language(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=32,
        )
    )  # fmt: skip
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear")
    keeper = Keeper(lambda module: module.net.base_model.model.lm_head, predicting_tokens)
    return fit(watch, keeper, get_peft_model(model, config), next_tokens())


@use("peft", "IA3, text classifier")
def ia3(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    config = IA3Config(
        task_type=TaskType.SEQ_CLS,
        target_modules=["key", "value", "output.dense"],
        feedforward_modules=["output.dense"],
    )
    keeper = Keeper(classifying, labels=lambda batch: batch["labels"])
    return fit(watch, keeper, get_peft_model(bert(), config), texts())


@use("peft", "prompt tuning, GPT2", why=NEXT + "; those of the prompt are none")
def prompt_tuning(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
        )
    )
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=5)
    keeper = Keeper(lambda module: module.net.base_model.lm_head, predicting_tokens)
    return fit(watch, keeper, get_peft_model(model, config), next_tokens())
