"""The edge predictor while its student is trained, on trace-tiny at 64 x 64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

import trace_d2
from trace_d2.edges.sources import build_edge_source
from trace_d2.edges.student_loading import load_student
from trace_d2.engine.hooks import ExponentialMovingAverage
from trace_d2.engine.optimizer import build_optimizer
from trace_d2.io.edge_maps import write_ternary
from trace_d2.modeling import TraceEdgePredictor

CONFIG = Path(__file__).parents[2] / "configs" / "edges" / "trace_tiny_distill.yaml"
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def config(*keys):
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    small = ["MODEL.TRACE.STUDENT.LORA.RANK", 4, "MODEL.TRACE.STUDENT.DECODER.RELATIVE.CHANNELS", 8]
    cfg.merge_from_list(["MODEL.TRACE.BACKBONE.RESOLUTION", 64, *small, *keys])
    return cfg


def make(*keys) -> TraceEdgePredictor:
    torch.manual_seed(0)
    model = build_model(config(*keys))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.02)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8),
            "pseudo_edges": torch.randint(-1, 2, (64, 64), generator=generator, dtype=torch.int8),
        }
        for _ in range(2)
    ]


def test_losses_of_a_batch(model, batch):
    losses = model.train()(batch)
    assert set(losses) == {"loss_dice", "loss_reconstruction"}
    assert all(loss.ndim == 0 and loss.requires_grad for loss in losses.values())
    assert 0 < float(losses["loss_dice"].detach()) < 1
    # Trained on photographs of BGR, the same pixels in the other order give the same.
    swapped = [{**record, "image": record["image"].flip(0)} for record in batch]
    model.input_format = "BGR"
    other = model(swapped)
    wrong = model(batch)
    model.input_format = "RGB"
    for name, loss in losses.items():
        assert torch.equal(other[name], loss)
        assert not torch.equal(wrong[name], loss)


def test_weights_of_the_losses(batch):
    both = make()(batch)
    keys = ["MODEL.TRACE.STUDENT.LOSS.DICE", 2.0, "MODEL.TRACE.STUDENT.LOSS.RECONSTRUCTION", 0.0]
    model = make(*keys)
    losses = model(batch)
    torch.testing.assert_close(losses["loss_dice"], 2 * both["loss_dice"])
    assert float(losses["loss_reconstruction"].detach()) == 0
    # Without the reconstruction every adapter still has a gradient, if of zeros.
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_batches_that_cannot_be_learned_from(model, batch):
    odd = {"image": torch.zeros(3, 64, 48), "pseudo_edges": torch.zeros(64, 48)}
    with pytest.raises(ValueError, match=r"one size, .*\(64, 48\).*PSEUDO_EDGES\.SIZE"):
        model.train()([batch[0], odd])
    with pytest.raises(ValueError, match=r"a multiple of \d+ pixels"):
        model([{"image": torch.zeros(3, 63, 63), "pseudo_edges": torch.zeros(63, 63)}])
    teacher = TraceEdgePredictor(edge_source=lambda image, stem: image, source_name="teacher x")
    with pytest.raises(ValueError, match=r"nothing to train: set MODEL\.TRACE\.EDGES\.SOURCE"):
        teacher.train()(batch)
    with pytest.raises(ValueError, match="no student in training"):
        teacher.save_student(Path("x"))


def test_the_optimizer_gets_adapters_and_decoder_alone(model):
    optimizer = build_optimizer(config(), model)
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for p in model.student.trainable().values()}


def test_checkpoints_hold_adapters_decoder_and_tag(model, tmp_path):
    names = {f"student.{name}" for name in model.student.trainable()}
    assert set(model.state_dict()) == names | {"edge_source_tag"}
    DetectionCheckpointer(model, str(tmp_path)).save("student")
    other = make()
    for parameter in other.student.trainable().values():
        parameter.data.zero_()
    DetectionCheckpointer(other).load(str(tmp_path / "student.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    record = [{"image": torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())}]
    first, second = (m.eval()(record)[0]["edges"] for m in (model, other))
    assert torch.equal(first, second)
    teacher = TraceEdgePredictor(edge_source=lambda image, stem: image, source_name="teacher x")
    with pytest.raises(ValueError, match=r"'student trace-tiny', and the config asks for 'teacher"):
        DetectionCheckpointer(teacher).load(str(tmp_path / "student.pth"))


def test_the_saved_folder_gives_the_same_edges(model, tmp_path):
    model.save_student(tmp_path / "student")
    record = [{"image": torch.from_numpy(IMAGE.transpose(2, 0, 1).copy()), "file_name": "a.png"}]
    expected = model.eval()(record)[0]["edges"]
    weights = ["MODEL.TRACE.STUDENT.WEIGHTS", str(tmp_path / "student")]
    for merge, tolerance in ((False, 0), (True, 1e-3)):
        cfg = config(*weights, "MODEL.TRACE.STUDENT.TRAIN", False,
                     "MODEL.TRACE.STUDENT.MERGE_LORA", merge)  # fmt: skip
        used = build_model(cfg).eval()
        assert used.student is None
        assert set(used.state_dict()) == {"edge_source_tag"}
        torch.testing.assert_close(used(record)[0]["edges"], expected, rtol=0, atol=tolerance)
        found = build_edge_source(cfg)(IMAGE, "a").edges
        np.testing.assert_allclose(found, expected, atol=1e-3)
    # And training goes on from it.
    again = build_model(config(*weights))
    torch.testing.assert_close(again.eval()(record)[0]["edges"], expected, rtol=0, atol=0)


def test_an_average_follows_and_saves(model, tmp_path):
    averaging = ExponentialMovingAverage(model, decay=0.5)
    averaging.after_step()
    name, parameter = next(iter(model.student.trainable().items()))
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter += 1
    averaging.after_step()
    averaged = averaging.model.student.trainable()[name]
    torch.testing.assert_close(averaged, before + 0.5)
    assert torch.equal(averaging.model.edge_source_tag, model.edge_source_tag)
    averaging.model.save_student(tmp_path / "student")
    backbone = averaging.model.student.backbone
    assert backbone is not model.student.backbone
    # A resumed average is the same.
    fresh = ExponentialMovingAverage(model, decay=0.5)
    fresh.load_state_dict(averaging.state_dict())
    assert torch.equal(fresh.model.student.trainable()[name], averaged)
    with torch.no_grad():
        parameter -= 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Config keys of four scenes of 64 x 64 with the edges of their truth."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    folder = tmp_path_factory.mktemp("distill")
    write_scenes(folder, 4, SceneSettings(size=(64, 64)), progress=False)
    (folder / "edges").mkdir()
    for path in sorted((folder / "images").iterdir()):
        grey = np.asarray(Image.open(path).convert("L"), np.float32)
        steep = np.hypot(*np.gradient(grey)) > 12
        write_ternary(folder / "edges" / f"{path.stem}.png", steep.astype(np.int8))
    entry = [["tiny_distill", str(folder / "images"), str(folder / "edges")]]
    return [
        *("DATASETS.TRACE.EDGES", str(entry), "DATASETS.TRAIN", "('tiny_distill',)"),
        *("MODEL.TRACE.STUDENT.LORA.RANK", "4", "SOLVER.IMS_PER_BATCH", "2"),
        *("MODEL.TRACE.STUDENT.DECODER.RELATIVE.CHANNELS", "16", "SOLVER.BASE_LR", "0.003"),
        *("INPUT.TRACE.PSEUDO_EDGES.RECOLOR", "False", "SOLVER.WARMUP_ITERS", "0"),
        *(
            "MODEL.TRACE.SOLVER.SAMPLES_PERIOD",
            "0",
            "SOLVER.CHECKPOINT_PERIOD",
            "1000",
            "SEED",
            "1",
        ),
    ]


def test_a_few_steps_lower_the_loss(batch):
    model = make().train()
    labels = torch.zeros(64, 64, dtype=torch.int8)
    labels[30:34] = 1
    image = batch[0]["image"].clone()
    image[:, :32] //= 4
    record = [{"image": image, "pseudo_edges": labels}]
    optimizer = torch.optim.AdamW(model.student.trainable().values(), lr=0.01)
    losses = []
    for _ in range(10):
        loss = sum(model(record).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0], losses


def test_training_goes_on_where_it_stopped(data, tmp_path, load_tool):
    main = load_tool("train_net").main
    command = ["--config-file", str(CONFIG), *data, "OUTPUT_DIR", str(tmp_path)]
    assert main([*command, "SOLVER.MAX_ITER", "2"]) == 0
    first = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert first["iteration"] == 1
    before = load_student(tmp_path / "student", _backbone())
    assert main(["--resume", *command, "SOLVER.MAX_ITER", "4"]) == 0
    last = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert last["iteration"] == 3
    after = load_student(tmp_path / "student", _backbone())
    state = {f"student.{n}": p for n, p in after.named_parameters()}
    for name, value in last["model"].items():
        assert name == "edge_source_tag" or torch.equal(state[name], value)
    assert not torch.equal(before.decoder.exit.weight, after.decoder.exit.weight)


def _backbone():
    from trace_d2.backbones import build_backbone

    return build_backbone(config())


def test_distributed_training_finds_every_parameter_used(batch, tmp_path):
    # With a weight of 0: a parameter without gradient would end the second step in an error.
    model = make("MODEL.TRACE.STUDENT.LOSS.RECONSTRUCTION", 0.0).train()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        for _ in range(2):
            sum(wrapped(batch).values()).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_checkpoint_of_training_is_not_taken_for_use(model):
    used = build_model(config("MODEL.TRACE.STUDENT.TRAIN", False))
    with pytest.raises(ValueError, match=r"student in training: set MODEL\.TRACE\.STUDENT\.TRAIN"):
        used.load_state_dict(model.state_dict(), strict=False)
