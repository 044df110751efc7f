"""Where the same rows lie in the plane, window after window: of runs under a Trainer and in a loop of one's own."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from sklearn.decomposition import PCA

from lightning_featgeo import Display, History
from lightning_featgeo.adapters import FeatureWatch
from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.history.layouts import Layout
from tests._helpers.models import Classifier, loaders, strict, trainer

SIGNALS = ["feature_std", "id_two_nn"]
NAMES = [f"digit {i}" for i in range(10)]


def is_turned_best(layout: Layout, before: Layout) -> bool:
    """Whether no rotation or reflection would bring its rows nearer: their cross-product is symmetric, none below 0."""
    found = layout.plane.T @ before.plane
    scale = float(found.abs().max())
    return bool(
        torch.allclose(found, found.T, atol=5e-3 * scale) and (torch.linalg.eigvalsh(found) > -5e-3 * scale).all()
    )


def of_features(model: Classifier, count: int) -> torch.Tensor:
    """What enters the head, for the first samples of the validation data."""
    x = loaders()[1].dataset.tensors[0][:count]
    with torch.no_grad():
        return model.eval().net[:3](x)


def test_a_run_without_a_logger_keeps_them_and_they_are_principal_components() -> None:
    watched, model = strict(signals=SIGNALS, display=Display(embedding_rows=60, class_names=NAMES)), Classifier()
    trainer(watched, max_epochs=3).fit(model, *loaders())
    found = watched.history.layouts
    assert [layout.epoch for layout in found] == [1, 2, 3]
    assert watched.history.run["class_names"] == NAMES
    last = found[-1]
    assert len(set(last.samples)) == 60
    targets = loaders()[1].dataset.tensors[1]
    assert list(last.labels) == targets[list(last.samples)].tolist()
    assert list(last.samples) == list(found[0].samples)
    oracle = PCA(2)
    points = torch.from_numpy(oracle.fit_transform(of_features(model, 200)[list(last.samples)].double().numpy()))
    extent = float(points.abs().max())
    assert torch.cdist(last.plane, last.plane).numpy() == pytest.approx(
        torch.cdist(points, points).numpy(), abs=4e-3 * extent
    )
    assert last.share == pytest.approx(float(oracle.explained_variance_ratio_.sum()), abs=1e-4)
    assert is_turned_best(found[1], found[0])
    assert is_turned_best(found[2], found[1])


def test_a_resumed_run_goes_on_turning(tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    asked = Display(embedding_rows=40)
    trainer(strict(signals=SIGNALS, display=asked), save, enable_checkpointing=True).fit(Classifier(), *loaders())
    watched = strict(signals=SIGNALS, display=asked)
    trainer(watched, max_epochs=4).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "last.ckpt")
    found = watched.history.layouts
    assert [layout.epoch for layout in found] == [1, 2, 3, 4]
    assert is_turned_best(found[2], found[1])


def test_rows_of_a_shuffled_loader_are_other_ones_each_time() -> None:
    both, watched = (
        strict(signals=SIGNALS, stages=stages, display=Display(embedding_rows=40))
        for stages in (("train", "val"), "train")
    )
    trainer(both).fit(Classifier(), *loaders())
    assert {layout.stage for layout in both.history.layouts} == {"val"}
    with pytest.warns(FeatureGeometryWarning, match="embedding_rows=40: featgeo/train is shuffled"):
        trainer(watched).fit(Classifier(), *loaders())
    assert watched.history.layouts == []


def test_none_where_no_media_are_wanted() -> None:
    watched = strict(signals=SIGNALS, display=Display(embedding_rows=40, media="none"))
    trainer(watched).fit(Classifier(), *loaders())
    assert watched.history.layouts == []


def test_a_loop_of_ones_own_keeps_its_last_one_too(tmp_path: Path) -> None:
    model, batch = Classifier(), next(iter(loaders(val=64)[1]))
    path = tmp_path / "h.jsonl"
    watch = FeatureWatch(model, signals=SIGNALS, on_error="raise", history_path=path, embedding_rows=20)
    for epoch in range(1, 36):
        watch.open("val", loader=[batch])
        with torch.no_grad(), watch.batch(batch):
            model(batch[0])
        watch.close(epoch=epoch)
    watch.remove()
    assert [layout.epoch for layout in History.load(path).layouts] == [*range(1, 33), 34, 35]
