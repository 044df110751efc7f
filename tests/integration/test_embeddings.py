"""Losses that score no classes: which output is watched, and in which stage, against rows that a keeper kept itself."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, GeometryEarlyStopping, GeometryMetric
from lightning_featgeo.capture import heads
from lightning_featgeo.errors import FeatureGeometryWarning
from tests._helpers.models import OfLoss, trainer
from tests._helpers.processes import on_ranks

X = torch.randn(128, 20, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (128,), generator=torch.Generator().manual_seed(1))


def off_diagonal(c: Tensor) -> Tensor:
    return (c - torch.diag(torch.diag(c))).square().sum()


def simclr(a: Tensor, b: Tensor) -> Tensor:
    a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
    return functional.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


def barlow(a: Tensor, b: Tensor) -> Tensor:
    a, b = ((z - z.mean(0)) / z.std(0) for z in (a, b))
    return (a.T @ b / len(a) - torch.eye(a.shape[1])).square().sum()


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    spread = sum(functional.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (a, b))
    return functional.mse_loss(a, b) + spread + off_diagonal(a.T.cov()) + off_diagonal(b.T.cov())


def triplet(a: Tensor, b: Tensor) -> Tensor:
    return functional.triplet_margin_loss(a, b, a.roll(1, 0))


LOSSES = {"simclr": simclr, "barlow": barlow, "vicreg": vicreg, "triplet": triplet}


class TwoViews(pl.LightningModule):
    """A backbone, a projector and, for "byol", a predictor. ``validates``: "all" or "backbone"."""

    def __init__(self, kind: str, validates: str = "all") -> None:
        super().__init__()
        self.kind, self.validates = kind, validates
        self.backbone = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
        hidden = nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, 16)
        self.projector = nn.Sequential(*hidden, nn.BatchNorm1d(16, affine=False))
        self.predictor = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))

    def loss(self, batch: Any) -> Tensor:
        views = [batch[0] + 0.1 * torch.randn_like(batch[0]) for _ in range(2)]
        if self.kind == "stacked":
            z = functional.normalize(self(torch.cat(views)), dim=1)
            likeness = (z @ z.T / 0.5).fill_diagonal_(-9)
            return functional.cross_entropy(likeness, torch.arange(len(z)).roll(len(z) // 2))
        a, b = map(self, views)
        if self.kind == "byol":
            p, q = self.predictor(a), self.predictor(b)
            return -(functional.cosine_similarity(p, b.detach()) + functional.cosine_similarity(q, a.detach())).mean()
        return LOSSES[self.kind](a, b)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.backbone(batch[0]) if self.validates == "backbone" else self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Kept(pl.Callback):
    """Keeps a module's output of the first view in each training epoch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epochs: list[list[Tensor]] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls: list[Tensor] = []
        module = pl_module.get_submodule(self.name)
        module.register_forward_hook(lambda _, __, out: self.calls.append(out.detach().double().clone()))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, *_: Any) -> None:
        self.calls.clear()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1].append(self.calls[0][: len(batch[0])])

    def effective_ranks(self) -> list[float]:
        found = []
        for rows in self.epochs:
            x = torch.cat(rows).numpy()
            s = np.linalg.svd(x - x.mean(0), compute_uv=False)
            p = s[s > 0] / s.sum()
            found.append(float(np.exp(-(p * np.log(p)).sum())))
        return found


def data(**how: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y), 32, **how)


def fitted(model: pl.LightningModule, *more: pl.Callback, epochs: int = 2, **settings: Any) -> FeatureGeometryMonitor:
    monitor = FeatureGeometryMonitor(**settings)
    trainer(monitor, *more, max_epochs=epochs).fit(model, data(shuffle=True), data())
    return monitor


@pytest.mark.parametrize("kind", [*LOSSES, "stacked", "byol"])
def test_what_the_loss_compares_is_watched_in_training_where_validation_runs_the_backbone(kind: str) -> None:
    kept, backbone = Kept("projector"), Kept("backbone")
    monitor = fitted(TwoViews(kind, "backbone"), kept, backbone, signals=["effective_rank"], on_error="raise")
    assert monitor.history.run["layers"][0].startswith("the output of 'projector' (what the loss compares)")
    for prefix, keeper in (("featgeo/train/", kept), ("featgeo/train/backbone/", backbone)):
        ours = [value for _, value in monitor.history.series(prefix + "effective_rank")]
        assert ours == pytest.approx(keeper.effective_ranks(), rel=1e-5)  # of every epoch, the first batch too
    assert {record.stage for record in monitor.history} == {"train"}


@pytest.mark.parametrize("kind", ["simclr", "byol"])
def test_validation_is_enough_where_it_runs_the_projector(kind: str) -> None:
    monitor = fitted(TwoViews(kind), signals=["effective_rank"], on_error="raise")
    assert {record.stage for record in monitor.history} == {"val"}
    assert [record.counts["seen"] for record in monitor.history if record.layer is None] == [128, 128]


def test_an_alarm_without_a_stage_follows_to_training() -> None:
    stop = GeometryEarlyStopping("collapse")
    fitted(TwoViews("byol", "backbone"), stop, epochs=3)
    assert [detector.stage for detector in stop.detectors] == ["train"] * len(stop.detectors)
    assert all(len(detector.checks) == 3 for detector in stop.detectors)


def test_who_watches_a_name_of_validation_is_told_why_it_has_no_value() -> None:
    early = pl.callbacks.EarlyStopping("featgeo/val/effective_rank", mode="max", strict=False)
    with pytest.warns(UserWarning, match="'projector' did not run in val"):
        monitor = fitted(TwoViews("simclr", "backbone"), early)
    assert {record.stage for record in monitor.history} == {"val", "train"}


class Regression(TwoViews):
    """Losses of one's own that compare an output with numbers of the batch, not with itself."""

    def loss(self, batch: Any) -> Tensor:
        z = self(batch[0])
        return (z - batch[0][:, :16]).norm(dim=1).mean() + (z - batch[0][:, 4:]).square().mean()


class Proxies(TwoViews):
    """Cosines to weights of the loss itself: classes, though nothing says so."""

    def __init__(self) -> None:
        super().__init__("")
        self.proxies = nn.Parameter(torch.randn(4, 16))

    def loss(self, batch: Any) -> Tensor:
        z, p = functional.normalize(self(batch[0]), dim=1), functional.normalize(self.proxies, dim=1)
        return functional.cross_entropy(10 * z @ p.T, batch[1])


@pytest.mark.parametrize("model", [Regression(""), Proxies()])
def test_what_is_compared_with_something_else_is_no_embedding(model: pl.LightningModule) -> None:
    with pytest.raises(ConfigurationError, match="can't tell which module"):
        fitted(model)


def test_an_online_probe_on_detached_features_is_not_what_is_learned() -> None:
    class Probed(TwoViews):
        def __init__(self) -> None:
            super().__init__("simclr")
            self.probe = nn.Linear(24, 4)

        def loss(self, batch: Any) -> Tensor:
            probe = self.probe(self.backbone(batch[0]).detach())
            return super().loss(batch) + functional.cross_entropy(probe, batch[1])

    monitor = fitted(Probed(), signals=["effective_rank"])
    assert "'projector'" in monitor.history.run["layers"][0]


def test_a_resumed_fit_goes_on_with_the_same_layers(tmp_path: Any) -> None:
    def callbacks() -> list[pl.Callback]:
        return [FeatureGeometryMonitor(), pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)]

    first, second = callbacks(), callbacks()
    model = TwoViews("simclr", "backbone")
    trainer(*first, max_epochs=2, enable_checkpointing=True).fit(model, data(), data())
    trainer(*second, max_epochs=4, enable_checkpointing=True).fit(
        model, data(), data(), ckpt_path=str(tmp_path / "last.ckpt")
    )
    monitor = second[0]
    assert isinstance(monitor, FeatureGeometryMonitor)
    series = monitor.history.series("featgeo/train/effective_rank")
    assert [epoch for epoch, _ in series] == [1, 2, 3, 4]


class VAE(pl.LightningModule):
    def __init__(self, mean: str, spread: str, gaussian: bool = False) -> None:
        super().__init__()
        self.names, self.gaussian = (mean, spread), gaussian
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU())
        for name in (mean, spread):
            setattr(self, name, nn.Linear(32, 6))
        self.decoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 20))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        h = self.encoder(batch[0])
        mean, log = (getattr(self, name)(h) for name in self.names)
        if self.gaussian:
            return functional.gaussian_nll_loss(mean, batch[0][:, :6], log.exp())
        z = mean + torch.randn_like(mean) * (log / 2).exp()
        return functional.mse_loss(self.decoder(z), batch[0]) - (1 + log - mean**2 - log.exp()).mean() / 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("names", [("mu", "logvar"), ("fc_mu", "fc_var"), ("mean_encoder", "std_encoder")])
def test_of_a_vae_the_latent_mean_is_watched(names: tuple[str, str]) -> None:
    monitor = fitted(VAE(*names), signals=["effective_rank"], on_error="raise")
    assert monitor.history.run["layers"][0].startswith(f"the output of {names[0]!r} (the mean of a latent")


def test_where_names_tell_nothing_both_are_offered() -> None:
    with pytest.raises(ConfigurationError, match=r"layer='fc22'.*\n.*layer='fc21'"):
        fitted(VAE("fc21", "fc22"))


def test_a_mean_and_a_variance_without_a_decoder_are_no_latent_distribution() -> None:
    with pytest.raises(ConfigurationError, match="may act after or beside it"):
        fitted(VAE("mean", "var", gaussian=True))


class Growing(pl.LightningModule):
    """Decodes step by step in validation, each time over all there is."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].reshape(-1, 4, 5)
        return functional.mse_loss(self.head(self.body(x)), torch.zeros(len(x), 4, 3))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0].reshape(-1, 4, 5)
        for length in (1, 2, 3, 4):
            self.head(self.body(x[:, :length]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_of_decoding_calls_that_grow_the_last_one_counts() -> None:
    model = Growing()
    monitor = fitted(model, signals=["effective_rank"], head="head", on_error="raise", epochs=1)
    assert monitor.history.records[0].counts["seen"] == 128
    x = model.body(X.reshape(-1, 4, 5)).mean(1).detach().double().numpy()
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s[s > 1e-9] / s.sum()
    ours = monitor.history.records[0].values["effective_rank"]
    assert ours == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-4)


def test_a_list_without_loaders_is_no_validation() -> None:
    monitor = FeatureGeometryMonitor(layer="projector")
    trainer(monitor, max_epochs=1).fit(TwoViews("simclr"), data(), [])
    assert {record.stage for record in monitor.history} == {"train"}


@pytest.mark.filterwarnings("ignore:featgeo")  # words that occur twice are near-duplicates
def test_classes_of_tokens_have_class_curves_and_a_vocabulary_has_none() -> None:
    class Tokens(pl.LightningModule):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 16), nn.Linear(16, classes)
            self.classes = classes

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.head(self.embed(batch["input_ids"]))
            return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    def preset(classes: int) -> str:
        ids = torch.randint(0, 30, (64, 12), generator=torch.Generator().manual_seed(2))
        rows = [{"input_ids": one, "labels": (one + 1) % classes} for one in ids]
        monitor = FeatureGeometryMonitor()
        trainer(monitor, max_epochs=1).fit(Tokens(classes), DataLoader(rows, 16), DataLoader(rows, 16))
        assert monitor.history.records[0].values["n_samples"] == 64 * 12
        return str(monitor.history.run["described"]).partition("preset:")[2].strip()

    assert preset(5).startswith("classifier")
    assert preset(30).startswith("tokens")


# --- what an independent reader wrote, in small ----------------------------------------------------------------------


class Plain(OfLoss):
    """A body and a head, and a loss of its output: ``what`` it is."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.body, self.head = nn.Sequential(nn.Linear(20, 32), nn.ReLU()), nn.Linear(32, 4)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x)
        z = self.head(h)
        if self.what == "a direction":
            return -functional.cosine_similarity(z, functional.normalize(x[:, :4], dim=1)).mean()
        if self.what == "Pearson":
            a, b = z - z.mean(0), x[:, :4] - x[:, :4].mean(0)
            return -(functional.normalize(a, dim=0) * functional.normalize(b, dim=0)).sum(0).mean()
        if self.what == "LogitNorm":
            return functional.cross_entropy(functional.normalize(z, dim=1) / 0.1, y)
        if self.what == "one-hot":
            return -functional.cosine_similarity(z, functional.one_hot(y, 4).float()).mean()
        if self.what == "a penalty on its norm":
            return (z - x[:, :4]).square().mean() + 0.01 * z.norm(dim=1).mean()
        if self.what == "a gate":
            value, gate = z.chunk(2, 1)
            return functional.mse_loss(value * torch.sigmoid(gate), x[:, :2])
        if self.what == "a temperature":
            scores, heat = z.split([3, 1], 1)
            return functional.cross_entropy(scores / functional.softplus(heat), y % 3)
        if self.what == "a covariance":
            lower = torch.tril(z.reshape(-1, 2, 2))
            return (lower @ lower.mT - x[:, :4].reshape(-1, 2, 2)).square().mean()
        raise AssertionError(self.what)


@pytest.mark.parametrize(
    "what",
    [
        "a direction",
        "Pearson",
        "LogitNorm",
        "one-hot",
        "a penalty on its norm",
        "a covariance",
        "a gate",
        "a temperature",
    ],
)
def test_a_prediction_that_is_normalised_is_no_embedding(what: str) -> None:
    monitor = fitted(Plain(what), signals=["effective_rank"], epochs=1)
    assert monitor.history.run["layers"][0].startswith("the input of 'head'")


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_compared_with_itself_and_with_a_target_is_refused(by_hand: bool) -> None:
    """A regression whose outputs are decorrelated: its predictions were taken for an embedding."""

    class Decorrelated(Plain):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            z = self.head(self.body(x))
            away = z - x[:, :4]
            target = away.square().mean() if by_hand else functional.mse_loss(z, x[:, :4])
            return target + 0.1 * off_diagonal(z.T @ z)

    with pytest.raises(ConfigurationError, match="with each other, and with something else"):
        fitted(Decorrelated(""))


@pytest.mark.parametrize("what", ["layer", "num_classes", "regression", "matrix"])
def test_weights_that_nobody_trains_are_not_looked_through(what: str) -> None:
    """A frozen classifier was taken for a reshape, and a layer too early for the head."""

    class Frozen(Plain):
        def __init__(self) -> None:
            super().__init__("")
            self.head.requires_grad_(False)
            self.body = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 32))
            if what == "num_classes":
                self.num_classes = 4

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            h = self.body(x)
            z = h @ torch.eye(32)[:, :4] if what == "matrix" else self.head(h)
            return (z - x[:, :4]).square().mean() if what == "regression" else functional.cross_entropy(z, y)

    with pytest.raises(ConfigurationError, match="reads it through weights that are not") as error:
        fitted(Frozen())
    lines = ["layer='body.2'", "head='body.2'"] if what == "matrix" else ["head='head'"]
    assert all(f"FeatureGeometryMonitor({line})" in str(error.value) for line in lines)


def test_the_next_step_of_a_series_is_no_reconstruction() -> None:
    class Forecast(Plain):
        def __init__(self) -> None:
            super().__init__("")
            self.head = nn.Linear(32, 20)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.head(self.body(x)) - y).square().mean().sqrt()

    loader = DataLoader(TensorDataset(X, X.roll(1, 0)), 32)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    trainer(monitor, max_epochs=1).fit(Forecast(), loader, loader)
    assert monitor.history.run["layers"][0].startswith("the input of 'head'")


@pytest.mark.parametrize("settings", [{}, {"labels": 1}, {"views": "b v"}])
def test_whole_numbers_without_a_name_are_asked_for(settings: dict[str, Any]) -> None:
    """Of groups without a classifier: labels of samples, or cameras of views? Each line that is offered works."""

    class Groups(TwoViews):
        def loss(self, batch: Any) -> Tensor:
            z = functional.normalize(self(batch[0].flatten(0, 1)), dim=1)
            return functional.cross_entropy(z @ z.T / 0.2, torch.arange(len(z)).roll(1))

    loader = DataLoader(TensorDataset(X.reshape(32, 4, 20), torch.arange(4).repeat(32, 1)), 8)
    monitor = FeatureGeometryMonitor(layer="projector", signals=["effective_rank"], **settings)
    fit = trainer(monitor, max_epochs=1).fit
    if not settings:
        with pytest.raises(ConfigurationError, match="labels of 4 samples, or something of 4 views"):
            fit(Groups(""), loader, loader)
        return
    fit(Groups(""), loader, loader)
    assert monitor.history.records[0].values["n_samples"] == (128 if "labels" in settings else 32)


class Named(pl.LightningModule):
    """SimSiam, BYOL or MoCo whose modules have names that tell nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.f = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16))
        self.h = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))
        self.old = copy.deepcopy(self.f).requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(16, 64), dim=0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        a, b = (batch[0] + 0.1 * torch.randn_like(batch[0]) for _ in range(2))
        if self.kind == "simsiam":
            p, z = self.h(self.f(a)), self.f(b)
            return -functional.cosine_similarity(p, z.detach()).mean()
        with torch.no_grad():
            order = torch.randperm(len(b))
            k = functional.normalize(self.old(b[order])[order.argsort()], dim=1)
        if self.kind == "byol":
            return functional.mse_loss(functional.normalize(self.h(self.f(a)), dim=1), k)
        q = functional.normalize(self.f(a), dim=1)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], q @ self.queue], dim=1)
        return functional.cross_entropy(logits / 0.2, torch.zeros(len(q), dtype=torch.long))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.f(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


@pytest.mark.parametrize("kind", ["simsiam", "byol", "moco"])
def test_a_predictor_is_known_by_what_it_predicts(kind: str) -> None:
    monitor = fitted(Named(kind), signals=["effective_rank"], epochs=1)
    assert monitor.history.run["layers"][0].startswith("the output of 'f'")


class Triplets(TwoViews):
    """Squares by hand, over one call for anchors, positives and negatives."""

    def loss(self, batch: Any) -> Tensor:
        x = batch[0]
        a, p, n = self(torch.cat([x, x + 0.1 * torch.randn_like(x), x.roll(1, 0)])).chunk(3)
        return functional.relu((a - p).pow(2).sum(1) - (a - n).pow(2).sum(1) + 1).mean()


@pytest.mark.parametrize("compiles", [False, True])
def test_distances_by_hand_within_one_call(compiles: bool) -> None:
    (watched,) = on_ranks(1, watched_of_triplets, compiles)
    assert watched.startswith("the output of 'projector'")


def watched_of_triplets(compiles: bool) -> str:
    """In a process of its own: that something was compiled stays known."""
    if compiles:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    monitor = fitted(Triplets(""), signals=["effective_rank"], epochs=1)
    return monitor.history.run["layers"][0]


@pytest.mark.parametrize("white", [False, True])
def test_a_vae_of_black_and_white_pictures_is_no_classifier(white: bool) -> None:
    class Bernoulli(VAE):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = torch.sigmoid(batch[0])
            h = self.encoder(x)
            mean, log = (getattr(self, name)(h) for name in self.names)
            drawn = self.decoder(mean + torch.randn_like(mean) * (log / 2).exp())
            target = (x > 0.5).float() if white else x
            loss = functional.binary_cross_entropy_with_logits(drawn, target)
            return loss - (1 + log - mean**2 - log.exp()).mean() / 2

    shades = DataLoader(TensorDataset(torch.sigmoid(X), Y), 32)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    model = Bernoulli("fc_mu", "fc_logvar")
    model.training_step = lambda batch, batch_idx: Bernoulli.training_step(model, [torch.logit(batch[0]), batch[1]], 0)
    trainer(monitor, max_epochs=1).fit(model, shades, shades)
    assert monitor.history.run["layers"][0].startswith("the output of 'fc_mu'")


def test_a_memory_that_nobody_knows_is_refused() -> None:
    class Memory(TwoViews):
        def loss(self, batch: Any) -> Tensor:
            z = functional.normalize(self(batch[0]), dim=1)
            return (1 - z @ functional.normalize(torch.ones(16, 64), dim=0)).mean()

    with pytest.raises(ConfigurationError, match=r"a matrix of its own \(a queue"):
        fitted(Memory(""))


@pytest.mark.parametrize("groups", [1, 4])
def test_groups_of_samples_with_labels_of_their_own_are_samples(groups: int) -> None:
    class Episodes(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = (part.flatten(0, 1) for part in batch)
            return functional.cross_entropy(self.head(self.body(x)), y)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    shards = TensorDataset(X.reshape(-1, 8, 20), Y.reshape(-1, 8))
    monitor = FeatureGeometryMonitor(signals=["effective_rank"], on_error="raise")
    model = Episodes("")
    trainer(monitor, max_epochs=1).fit(model, DataLoader(shards, groups), DataLoader(shards, groups))
    x = model.body(X).detach()
    own = GeometryMetric(["effective_rank"])
    own.update(x, Y)
    found = monitor.history.records[0]
    assert found.counts["seen"] == 128
    for name, value in own.compute().items():
        assert found.values[name] == pytest.approx(float(value), rel=1e-5)


def test_what_a_training_step_could_not_tell_is_not_told_by_the_order_of_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error while the head is looked for is a gap, and stays one: later windows guessed."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("something is wrong with us")

    monkeypatch.setattr(heads, "find_embedding", broken)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    with pytest.warns(FeatureGeometryWarning, match="something is wrong with us"):
        trainer(monitor, max_epochs=2).fit(TwoViews("simclr"), data(), data())
    assert [record.values for record in monitor.history] == [{}, {}]


def test_numbers_of_views_are_no_labels_of_samples() -> None:
    """Cameras of views look like labels of groups: what has another name is none."""

    class Seen(OfLoss):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(20, 16), nn.ReLU()), nn.Linear(16, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.head(self.body(batch["image"].flatten(0, 1))).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    cameras = torch.arange(4).repeat(32, 1)
    views = X.reshape(32, 4, 20)
    rows: Any = [{"image": x, "camera": c} for x, c in zip(views, cameras, strict=True)]
    loader = DataLoader(rows, 8)
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    trainer(monitor, max_epochs=1).fit(Seen(), loader, loader)
    assert not any("groups of samples" in str(note) for record in monitor.history for note in record.notes)


@pytest.mark.parametrize("scored", [True, False])
def test_only_what_the_loss_scores_is_a_label_of_each_view(scored: bool) -> None:
    """Which camera a view is of, to be told by the network: or only given beside it, and one label for all views."""

    class Cameras(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, camera, y = batch["image"], batch["camera"], batch["of"]
            z = self.head(self.body(x.flatten(0, 1)))
            if scored:
                return functional.cross_entropy(z, camera.flatten())
            return functional.cross_entropy(z.unflatten(0, x.shape[:2]).mean(1), y[:, 0])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    given = {"image": X.reshape(32, 4, 20), "camera": torch.arange(4).repeat(32, 1), "of": Y[:32, None]}
    rows: Any = [{name: part[i] for name, part in given.items()} for i in range(32)]
    monitor = FeatureGeometryMonitor(signals=["effective_rank"])
    trainer(monitor, max_epochs=1).fit(Cameras(""), DataLoader(rows, 8), DataLoader(rows, 8))
    assert monitor.history.records[0].values["n_samples"] == (128 if scored else 32)
