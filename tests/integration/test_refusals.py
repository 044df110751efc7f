"""What can't be told is refused before anything is trained, and every line that is printed to paste works."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, mse_loss, normalize
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from lightning_featgeo.adapters import FeatureWatch
from tests._helpers.models import OfLoss, strict, trainer

X = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (96,), generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(96, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Tied(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.Embedding(4, 8), mlp(12, 16, 8)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(linear(self.net(x), self.table.weight), y)


class Cosine(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.weight = mlp(12, 16, 8), nn.Parameter(torch.randn(4, 8))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(9 * normalize(self.net(x)) @ normalize(self.weight).T, y)


class Fused(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(12, 16, 8), nn.Linear(8, 4)

    def get_classifier(self) -> nn.Module:
        return self.head

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(linear(self.encoder(x), self.head.weight, self.head.bias), y)


class Scripted(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(12, 16, 8), torch.jit.script(nn.Linear(8, 4))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.head(self.encoder(x)), y)


class Product(nn.Module):
    """A layer of one's own, as graph libraries have them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(before, after) / before)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Products(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.criterion = Product(12, 8), Product(8, 4), nn.CrossEntropyLoss()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.criterion(self.two(self.one(x).relu()), y)


class TwoHeads(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.a, self.b = mlp(12, 16, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.encoder(x)
        return cross_entropy(self.a(z), y) + cross_entropy(self.b(z), y % 2)


class Autoencoder(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(12, 16, 5), mlp(5, 16, 12)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return mse_loss(self.decoder(self.encoder(x)), x)


class Variational(Autoencoder):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.moments = mlp(12, 16), nn.Linear(16, 10)  # the mean is no module's own output

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.encoder(x)
        mu, log_var = self.moments(h).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * (log_var / 2).exp()
        return (self.decoder(z) - x).square().mean() + 0.01 * (mu.square() + log_var.exp() - log_var).mean()


class TiedAutoencoder(OfLoss):
    """Its decoder is its encoder's weight: no other module is there to be named."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 5)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return mse_loss(linear(self.encoder(x).relu(), self.encoder.weight.T), x)


class UNet(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 3, 3, padding=1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return mse_loss(self.up(self.down(x).relu()), x)


class Towers(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(6, 16, 8), mlp(6, 16, 8)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = normalize(self.left(x[:, :6])), normalize(self.right(x[:, 6:]))
        return cross_entropy(9 * a @ b.T, torch.arange(len(x)))


class Predictor(OfLoss):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = mlp(12, 16, 8), mlp(8, 8), mlp(8, 8)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (self.projector(self.encoder(x + s * torch.randn_like(x))) for s in (0.1, 0.2))
        return (normalize(self.predictor(a)) - normalize(b.detach())).square().mean()


class Embeddings(OfLoss):
    """``layer="encoder"`` puts out two tensors that could be features."""

    def __init__(self) -> None:
        super().__init__()

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.out = nn.Linear(12, 8), nn.Linear(8, 5)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                hidden = self.body(x).relu()
                return {"hidden": hidden, "embedding": self.out(hidden)}

        self.encoder, self.head = Both(), nn.Linear(5, 4)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.head(self.encoder(x)["embedding"]), y)


class Regions(OfLoss):
    """Three rows of features a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.head = nn.Linear(12, 24), nn.Linear(8, 4)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.head(self.split(x).reshape(-1, 8)).unflatten(0, (len(x), 3)).mean(1), y)


REFUSED: dict[str, tuple[type[OfLoss], Tensor, dict[str, Any]]] = {
    "tied": (Tied, X, {}),
    "cosine": (Cosine, X, {}),
    "fused": (Fused, X, {}),
    "fused, and named": (Fused, X, {"head": "head"}),
    "scripted": (Scripted, X, {}),
    "layers of one's own": (Products, X, {}),
    "two heads": (TwoHeads, X, {}),
    "autoencoder": (Autoencoder, X, {}),
    "variational autoencoder": (Variational, X, {}),
    "tied autoencoder": (TiedAutoencoder, X, {}),
    "U-Net": (UNet, IMAGES, {}),
    "towers": (Towers, X, {}),
    "predictor": (Predictor, X, {}),
    "two embeddings": (Embeddings, X, {"layer": "encoder"}),
    "regions": (Regions, X, {"head": "head"}),
}


def fitted(kind: str, **settings: Any) -> FeatureGeometryMonitor:
    make, x, _ = REFUSED[kind]
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, Y), 32)
    monitor = FeatureGeometryMonitor(on_error="raise", **settings)
    trainer(monitor, max_epochs=1).fit(make(), loader, loader)
    return monitor


@pytest.mark.parametrize("kind", REFUSED)
def test_every_line_to_paste_works(kind: str) -> None:
    given = REFUSED[kind][2]
    with pytest.raises(ConfigurationError) as error:
        fitted(kind, **given)
    lines = re.findall(r"FeatureGeometryMonitor\((.*?)\)(?=\s|$)", str(error.value))
    assert lines
    for line in lines:
        pasted = eval(f"dict({line})")
        # a head replaces a layer, and a layer a head; what says how rows lie goes beside them
        kept = {} if pasted.keys() & {"head", "layer"} else given
        monitor = fitted(kind, **kept, **pasted)
        values = monitor.history.records[-1].values
        assert {"feature_std", "effective_rank"} <= values.keys(), line


def test_of_an_autoencoder_the_embedding_is_offered_and_no_variance_or_decoder() -> None:
    with pytest.raises(ConfigurationError) as error:
        fitted("variational autoencoder")
    assert re.findall(r"FeatureGeometryMonitor\((.*?)\)", str(error.value)) == ["layer='moments'"]


@pytest.mark.parametrize("kind", ["autoencoder", "variational autoencoder"])
def test_a_reconstruction_is_no_classification_whatever_the_batch_is_labelled_with(kind: str) -> None:
    monitor = fitted(kind, head="decoder.2")
    assert not {"knn_accuracy", "nc1"} & monitor.history.records[-1].values.keys()


@pytest.mark.parametrize(("make", "line"), [(Tied, "layer='net'"), (TwoHeads, "head=")])
def test_a_loop_of_ones_own_is_told_in_its_own_words(make: type[OfLoss], line: str) -> None:
    net = make()
    watch = FeatureWatch(net, signals=["feature_std"])
    watch.open("val")
    with pytest.raises(ConfigurationError) as error, torch.no_grad(), watch.batch((X, Y)):
        net.loss(X, Y)
    assert f"FeatureWatch(model, {line}" in str(error.value)
    assert "FeatureGeometryMonitor" not in str(error.value)


LOADERS = [DataLoader(TensorDataset(X, Y), 32)] * 2


class Functional(OfLoss):
    """Its classifier is a parameter of the model, applied by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.matrix = mlp(12, 16, 8), nn.Parameter(torch.randn(4, 8))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(linear(self.body(x), self.matrix), y)


def test_a_matrix_that_no_module_applies_is_the_classifier_and_what_it_reads_is_offered() -> None:
    with pytest.raises(ConfigurationError) as error:
        trainer(strict(), max_epochs=1).fit(Functional(), *LOADERS)
    assert "'matrix' (of the model itself)" in str(error.value)
    assert re.findall(r"FeatureGeometryMonitor\((.*?)\)", str(error.value)) == ["layer='body'"]
    monitor = strict(layer="body")
    trainer(monitor, max_epochs=1).fit(Functional(), *LOADERS)
    assert monitor.history.records[-1].facts["dim"] == 8


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"head": "bodi"}, "head='body'"),
        ({"layer": "bodi"}, "layer='body'"),
        ({"layer": "encoder.*"}, ""),
        ({"head": "zz"}, ""),
    ],
)
def test_a_name_that_is_not_there_is_answered_in_its_own_argument(wrong: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        trainer(strict(**wrong), max_epochs=1).fit(Functional(), *LOADERS)
    assert f"Paste: FeatureGeometryMonitor({line})" in str(error.value)
