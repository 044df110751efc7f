"""Which layer the rule picks, or which error it gives, for the models that fool "the last Linear that ran"."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, mse_loss, normalize
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, FeatureGeometryWarning
from lightning_featgeo.capture import refusals
from lightning_featgeo.capture.heads import candidates, choose_by_declaration
from lightning_featgeo.capture.widths import known_class_count
from tests._helpers.models import Classifier, loaders, trainer


def picked(model: pl.LightningModule, **kwargs) -> str:
    """Path of the head found when the model is fitted for two batches."""
    monitor = FeatureGeometryMonitor(signals=["feature_std"], on_error="raise", **kwargs)
    trainer(monitor, limit_train_batches=2, limit_val_batches=1, max_epochs=1).fit(model, *loaders())
    return monitor.history.run["layers"][0].split("'")[1]


class Tied(Classifier):
    """Output weights are the embedding's, applied with F.linear; the last Linear that runs is a hidden layer."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)))
        self.embed = nn.Embedding(10, 16)

    def forward(self, x):
        return linear(self.net(x), self.embed.weight)


class CosineHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 16))

    def forward(self, x):
        return 10 * linear(normalize(x), normalize(self.weight))


class TwoHeads(Classifier):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU()))
        self.a, self.b = nn.Linear(32, 10), nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        h = self.net(batch[0])
        return cross_entropy(self.a(h), batch[1]) + cross_entropy(self.b(h), batch[1] % 2)

    def forward(self, x):
        return self.a(self.net(x))


class Distilled(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        return mse_loss(self(batch[0]), self.teacher(batch[0]))


class SimSiam(Classifier):
    """Ends in a predictor while training, in the encoder while validating. ``named`` as papers do, or not."""

    def __init__(self, named: bool) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32)))
        self.last = "predictor" if named else "h"
        setattr(self, self.last, nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32)))

    def training_step(self, batch, batch_idx):
        a, b = self.net(batch[0]), self.net(batch[0] + 0.1 * torch.randn_like(batch[0]))
        h = getattr(self, self.last)
        return -(normalize(h(a)) * normalize(b.detach()) + normalize(h(b)) * normalize(a.detach())).sum(1).mean()

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])


class Text(Classifier):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(nn.Identity())
        self.model = model

    def forward(self, x):
        return self.model(input_ids=(x[:, :12] * 16).long()).logits

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return cross_entropy(logits.reshape(-1, logits.shape[-1])[: len(batch[1])], batch[1] % logits.shape[-1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class Map(nn.Sequential):
    """A 1×1 convolution as head, averaged afterwards."""

    def __init__(self) -> None:
        conv = nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 1)
        super().__init__(nn.Unflatten(1, (1, 8, 8)), *conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}
CLEAR = {
    "MLP": (lambda: Classifier(), "net.3"),
    "CNN with a 1×1-conv head": (lambda: Classifier(Map()), "net.3"),
    "student and teacher": (lambda: Distilled(), "net.3"),
    "SimSiam": (lambda: SimSiam(named=True), "net"),  # what the predictor is given
    "SimSiam without telling names": (lambda: SimSiam(named=False), "net"),  # the copy that was detached tells
    "Hugging Face sequence classifier": (
        lambda: Text(BertForSequenceClassification(BertConfig(num_labels=10, **TINY))), "model.classifier"
    ),
    "Hugging Face language model": (
        lambda: Text(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20))), "model.lm_head"
    ),
}  # fmt: skip
AMBIGUOUS = {
    "tied F.linear": (lambda: Tied(), "'embed.weight'"),
    "cosine head": (lambda: Classifier(nn.Sequential(nn.Linear(64, 16), CosineHead())), "'net.1.weight'"),
    "two heads": (lambda: TwoHeads(), "the loss scores the outputs of 2 layers"),
    "no candidate": (lambda: Classifier(nn.Sequential(CosineHead2())), "none: no trainable Linear or convolution"),
}


class CosineHead2(CosineHead):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64))


@pytest.mark.parametrize("model", CLEAR)
def test_clear_heads_are_found(model: str) -> None:
    make, head = CLEAR[model]
    assert picked(make()) == head


@pytest.mark.parametrize("model", AMBIGUOUS)
def test_ambiguous_heads_are_an_error_with_candidates_and_the_line_to_paste(model: str) -> None:
    make, says = AMBIGUOUS[model]
    with pytest.raises(ConfigurationError) as error:
        picked(make())
    text = str(error.value)
    assert says in text
    assert "Candidates:" in text
    assert "FeatureGeometryMonitor(layer=" in text


def test_the_line_to_paste_works() -> None:
    assert picked(TwoHeads(), head="a") == "a"
    never_runs = FeatureGeometryMonitor(head="b", signals=["feature_std"])  # validation uses head a only
    with pytest.warns(FeatureGeometryWarning, match="'b' did not run in val"):
        trainer(never_runs, max_epochs=1).fit(TwoHeads(), *loaders())
    assert "did not run" in never_runs.history.records[0].gaps["feature_std"]
    cosine = Classifier(nn.Sequential(nn.Linear(64, 16), CosineHead()))
    assert picked(cosine, head="net.1") == "net.1"
    monitor = FeatureGeometryMonitor(layer="net", signals=["feature_std"], on_error="raise")
    trainer(monitor, max_epochs=1).fit(SimSiam(named=True), *loaders())
    assert monitor.history.series("featgeo/val/feature_std")


@pytest.mark.parametrize("num_classes", [10, None])
def test_two_heads_of_different_width_are_told_apart_by_the_number_of_classes(num_classes) -> None:
    if num_classes:
        assert picked(TwoHeads(), num_classes=num_classes) == "a"
    else:
        with pytest.raises(ConfigurationError):
            picked(TwoHeads())


def test_the_rule_without_a_backward_goes_by_order_and_is_wary() -> None:
    def validated(model: pl.LightningModule) -> str:
        monitor = FeatureGeometryMonitor(signals=["feature_std"], on_error="raise")
        trainer(monitor).validate(model, loaders()[1], verbose=False)
        assert monitor.history.records[0].values["n_samples"] == 200  # the first batch is not lost
        return monitor.history.run["layers"][0].split("'")[1]

    assert validated(Classifier()) == "net.3"
    with pytest.raises(ConfigurationError, match=r"embed\.weight"):
        validated(Tied())

    class Both(TwoHeads):
        def forward(self, x):
            h = self.net(x)
            return self.a(h) + 0 * self.b(h).sum()

    with pytest.raises(ConfigurationError, match="same features"):
        validated(Both())


@pytest.mark.slow
def test_compiled_models_fall_back_to_the_order_of_running() -> None:
    torch._dynamo.reset()  # what other tests have compiled counts towards its limit
    model = Classifier()
    model.net = torch.compile(model.net, backend="aot_eager")
    assert picked(model) == "net.3"


def test_declarations_class_counts_and_candidates() -> None:
    net = nn.Module()
    net.fc, net.frozen = nn.Linear(4, 10), nn.Linear(4, 10).requires_grad_(False)
    net.conv3, net.conv1 = nn.Conv2d(4, 10, 3), nn.Conv2d(4, 7, 1)
    assert list(candidates(net)) == ["fc", "conv3", "conv1"]
    choice = choose_by_declaration(net, 7)
    assert choice is not None
    assert choice.name == "conv1"
    assert choose_by_declaration(net, 3) is None
    net.get_classifier = lambda: net.fc
    choice = choose_by_declaration(net, None)
    assert choice is not None
    assert (choice.name, choice.why) == ("fc", "the model declares it as its head")
    holder = nn.Module()
    holder.hparams = {"num_classes": 12}
    assert known_class_count(net, holder) == 12
    assert known_class_count(net) is None


def test_a_hidden_layer_as_wide_as_the_classes_is_not_taken_before_a_cosine_head() -> None:
    class Narrow(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Linear(64, 10))
            self.weight = nn.Parameter(torch.randn(10, 10))

        def forward(self, x):
            return 10 * linear(normalize(self.net(x)), normalize(self.weight))

    with pytest.raises(ConfigurationError, match="'weight'"):
        picked(Narrow(), num_classes=10)


@pytest.mark.parametrize("name", ["bbox_pred", "predictor", "proj_out"])
def test_a_telling_name_is_a_doubt_and_no_veto(name: str) -> None:
    class Named(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU()))
            setattr(self, name, nn.Linear(32, 10))

        def forward(self, x):
            return getattr(self, name)(self.net(x))

    class Boxes(Named):
        def training_step(self, batch, batch_idx):
            return mse_loss(self(batch[0]), batch[2])

    assert picked(Named()) == name
    train, val = loaders()
    x, y = next(iter(train))
    boxes = DataLoader(TensorDataset(x, y, torch.randn(len(x), 10)), 20)
    monitor = FeatureGeometryMonitor(signals=["feature_std"], on_error="raise")
    trainer(monitor, max_epochs=1).fit(Boxes(), boxes, val)
    assert f"'{name}'" in monitor.history.run["layers"][0]


class Adapted(nn.Module):
    """A frozen layer and a trained adapter beside it, as LoRA has them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


def test_of_a_layer_with_an_adapter_the_module_around_both_is_offered() -> None:
    model = nn.Module()
    model.body, model.fc = Adapted(nn.Linear(8, 6)), Adapted(nn.Linear(6, 4))
    assert refusals.adapted(model, ["fc.up", "body.up"]) == ["body", "fc"]
    assert refusals.adapted(model, ["fc.up"]) == ["fc"]
    assert refusals.adapted(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), ["1"]) == ["1"]
    model.fc.requires_grad_(True)
    assert refusals.adapted(model, ["fc.up"]) == ["fc.up"]  # two heads, perhaps
