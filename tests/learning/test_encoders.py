"""Every encoder, at every size of picture, alone and as an exported graph."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from jepa_robot.learning.backbones import InvalidBackbone
from jepa_robot.learning.encoders import Encoder, EncoderConfig
from jepa_robot.learning.familiarity import LARGEST, Views
from jepa_robot.learning.networks import Agent, AgentShape
from tests.learning.parity import assert_graph_computes_what_torch_does

TRAINED = ("spatial_softmax", "cnn", "resnet", "vit")
FILES = ("net.onnx", "net.pt", "net.pt2")


def shape_of(encoder, image_size=(64, 64), history=1, cameras=2, **sizes):
    sizes = {"proprioception": 14, "actions": 3, "latent": 8 * history, **sizes}
    return AgentShape(cameras, image_size, history=history, encoder=encoder, **sizes)


def pictures(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*sizes, 3), generator=generator, dtype=torch.uint8)


def encoder_of(name, image_size=(64, 64), history=1, cameras=2, **settings):
    torch.manual_seed(0)
    config = EncoderConfig(name, **settings)
    return Encoder(shape_of(config, image_size, history, cameras)).eval()


def test_the_default_is_key_points_of_three_convolutions_and_a_small_head():
    encoder = encoder_of("spatial_softmax")
    images = pictures(3, 2, 64, 64)
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 4, 2), nn.Conv2d(16, 32, 3, 2), nn.Conv2d(32, 32, 1)]
    head = nn.Sequential(nn.Linear(128, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 8))
    maps = images.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
    for convolution in convolutions[:2]:
        maps = torch.relu(convolution(maps))
    maps = convolutions[2](maps)
    weights = functional.softmax(maps.flatten(2), dim=-1).unflatten(-1, maps.shape[-2:])
    x, y = torch.linspace(-1, 1, 15), torch.linspace(-1, 1, 15)
    points = torch.stack([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], dim=-1)
    expected = points.flatten(1).reshape(3, 2, 64)
    torch.testing.assert_close(encoder.look(images), expected)
    torch.testing.assert_close(encoder(images), head(expected.flatten(1)))


@pytest.mark.parametrize("image_size", [(32, 32), (96, 96), (64, 128), (100, 75), (224, 224)])
@pytest.mark.parametrize("name", TRAINED)
def test_pictures_of_any_size_are_encoded(name, image_size):
    encoder = encoder_of(name, image_size)
    images = pictures(2, 2, *image_size)
    assert encoder.look(images).shape == (2, 2, encoder.features)
    latents = encoder(images)
    assert latents.shape == (2, 8)
    assert latents.isfinite().all()
    assert not torch.allclose(latents[0], latents[1])


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("name", TRAINED)
def test_windows_are_the_forward_of_every_window(name, history):
    encoder = encoder_of(name, (32, 32), history)
    images = pictures(2, 5, 2, 32, 32)
    features = encoder.look(images.flatten(0, 1)).unflatten(0, (2, 5))
    latents = encoder.windows(features)
    assert latents.shape == (2, 6 - history, 8 * history)
    for start in range(6 - history):
        expected = encoder(images[:, start : start + history])
        torch.testing.assert_close(latents[:, start], expected, atol=1e-5, rtol=1e-5)


def test_a_latent_is_the_last_frames_embedding_and_its_changes():
    encoder = encoder_of("cnn", (32, 32), history=3)
    images = pictures(4, 3, 2, 32, 32)
    one, two, three = (encoder.head(encoder.look(images[:, index])).detach() for index in range(3))
    expected = torch.cat([three, three - two, two - one], dim=1)
    torch.testing.assert_close(encoder(images).detach(), expected, atol=1e-5, rtol=1e-5)


def test_a_latent_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="latent is 8, expected a multiple of the history, 3"):
        shape_of(EncoderConfig(), history=3, latent=8)


@pytest.mark.parametrize(("joints", "name"), [(14, "spatial_softmax"), (0, "cnn")])
def test_without_joints_the_default_is_a_cnn(joints, name):
    encoder, expected = (
        Encoder(shape_of(config, proprioception=joints))
        for config in (EncoderConfig(), EncoderConfig(name))
    )
    assert str(encoder) == str(expected)


def test_the_order_of_frames_matters():
    encoder = encoder_of("cnn", (32, 32), history=2)
    images = pictures(1, 2, 2, 32, 32)
    assert not torch.allclose(encoder(images), encoder(images.flip(1)))


def test_fewer_frames_than_the_history_are_refused():
    encoder = encoder_of("cnn", (32, 32), history=3)
    with pytest.raises(ValueError, match="a window has 2 frames, expected at least 3"):
        encoder.windows(torch.zeros(1, 2, 2, encoder.features))


@pytest.mark.parametrize("name", TRAINED)
def test_a_shared_trunk_sees_the_same_in_every_camera_and_own_ones_do_not(name):
    same = pictures(2, 1, 32, 32).repeat(1, 2, 1, 1, 1)
    shared = encoder_of(name, (32, 32)).look(same)
    torch.testing.assert_close(shared[:, 0], shared[:, 1])
    own = encoder_of(name, (32, 32), shared=False).look(same)
    assert own.shape == shared.shape
    assert not torch.allclose(own[:, 0], own[:, 1])


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_learns(name):
    encoder = encoder_of(name, (32, 32), history=2, shared=False).train()
    encoder(pictures(2, 2, 2, 32, 32)).square().sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_is_of_training_only_and_near_float32(name):
    encoder = encoder_of(name, (32, 32))
    images = pictures(2, 2, 32, 32)
    exact = encoder(images)
    encoder.uses_bfloat16 = True
    assert torch.equal(encoder(images), exact)
    reduced = encoder.train()(images)
    assert reduced.dtype == torch.float32
    assert not torch.equal(reduced, exact)
    torch.testing.assert_close(reduced, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(("history", "shared"), [(1, True), (2, False)])
@pytest.mark.parametrize("name", TRAINED)
def test_the_exported_graph_computes_the_same(name, history, shared, tmp_path):
    encoder = encoder_of(name, (64, 48), history, shared=shared)
    images = pictures(3, history, 2, 64, 48)
    assert_graph_computes_what_torch_does(encoder, {"images": images}, tmp_path / "encoder.onnx")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)]
    network = nn.Sequential(*layers, nn.Conv2d(8, 4, 3, 2))
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(8, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """The same network in every kind of file."""
    folder = tmp_path_factory.mktemp("backbones")
    example = torch.randn(2, 3, 32, 32)
    torch.jit.script(network).save(str(folder / "net.pt"))
    rows = torch.export.Dim("rows")
    program = torch.export.export(network, (example,), dynamic_shapes=({0: rows},))
    torch.export.save(program, folder / "net.pt2")
    save_onnx(network, folder / "net.onnx", {"x": {0: "N"}})
    return folder


def save_onnx(network, path, dynamic_axes, opset=20):
    torch.onnx.export(
        network,
        (torch.randn(2, 3, 32, 32),),
        str(path),
        input_names=["x"],
        dynamic_axes=dynamic_axes,
        opset_version=opset,
        dynamo=False,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("file", FILES)
def test_a_frozen_backbone_is_what_its_file_says_and_never_learns(file, files, network):
    encoder = encoder_of("frozen", (32, 32), backbone=str(files / file)).train()
    images = pictures(3, 2, 32, 32)
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = network(pixels).flatten(1)
    torch.testing.assert_close(encoder.look(images).flatten(0, 1), expected, atol=1e-5, rtol=1e-4)
    assert not encoder.look(images).requires_grad
    encoder(images).sum().backward()
    learns = {key.split(".")[0] for key, p in encoder.named_parameters() if p.grad is not None}
    assert learns == {"head"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("file", FILES)
def test_the_exported_graph_holds_the_frozen_backbone(file, files, tmp_path):
    encoder = encoder_of("frozen", (32, 32), history=2, backbone=str(files / file))
    images = pictures(3, 2, 2, 32, 32)
    assert_graph_computes_what_torch_does(encoder, {"images": images}, tmp_path / "encoder.onnx")


def test_a_frozen_vision_transformer_is_exported_too(tmp_path):
    trunk = encoder_of("vit", (32, 32)).trunks[0]
    save_onnx(trunk, tmp_path / "vit.onnx", {"x": {0: "N"}}, opset=17)
    encoder = encoder_of("frozen", (32, 32), backbone=str(tmp_path / "vit.onnx"))
    images = pictures(2, 1, 2, 32, 32)
    torch.testing.assert_close(
        encoder.look(images[:, 0]).flatten(0, 1),
        trunk(images.flatten(0, 2).permute(0, 3, 1, 2) / 127.5 - 1).detach(),
        atol=1e-5,
        rtol=1e-4,
    )
    assert_graph_computes_what_torch_does(encoder, {"images": images}, tmp_path / "encoder.onnx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mean_and_std_are_of_values_from_0_to_1_and_maps_can_be_averaged(files, network):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    encoder = encoder_of(
        "frozen", (32, 32), backbone=str(files / "net.pt"), pooling="mean", mean=mean, std=std
    )
    images = pictures(1, 2, 32, 32)
    pixels = images[0].permute(0, 3, 1, 2) / 255
    scaled = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = network(scaled).mean(dim=(2, 3))
    torch.testing.assert_close(encoder.look(images)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_copy_shares_the_frozen_backbone(files):
    encoder = encoder_of("frozen", (32, 32), backbone=str(files / "net.pt"))
    other = copy.deepcopy(encoder)
    assert other.trunks[0].body is encoder.trunks[0].body
    assert other.head is not encoder.head


def test_another_file_than_the_one_that_was_trained_with_is_refused(network, tmp_path):
    path = tmp_path / "net.onnx"
    save_onnx(network, path, {"x": {0: "N"}}, opset=17)
    agent = Agent(shape_of(EncoderConfig("frozen", backbone=str(path)), (32, 32)))
    Agent(agent.shape).load_state_dict(agent.state_dict())
    save_onnx(network, path, {"x": {0: "N"}}, opset=18)
    with pytest.raises(InvalidBackbone, match="is not the file that the agent was trained with"):
        Agent(agent.shape).load_state_dict(agent.state_dict())


class GivesVectorOfOne(nn.Module):
    def forward(self, x):
        return x.mean().reshape(1, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_wrong_with_a_backbone_is_said(network, files, tmp_path):
    def load(path, image_size=(32, 32)):
        return Encoder(shape_of(EncoderConfig("frozen", backbone=str(path)), image_size))

    with pytest.raises(InvalidBackbone, match=r"net\.bin: has the suffix '\.bin', expected one of"):
        load(tmp_path / "net.bin")
    with pytest.raises(InvalidBackbone, match=r"none\.onnx: is missing"):
        load(tmp_path / "none.onnx")
    for suffix, expected in ((".onnx", "an ONNX graph"), (".pt", "TorchScript"), (".pt2", "a pro")):
        (tmp_path / f"bad{suffix}").write_bytes(b"nothing of the kind")
        with pytest.raises(InvalidBackbone, match=rf"bad\{suffix}: expected {expected}"):
            load(tmp_path / f"bad{suffix}")
    save_onnx(network, tmp_path / "fixed.onnx", {})
    with pytest.raises(InvalidBackbone, match=r"fixed\.onnx: does not take .*\[3, 3, 32, 32\]"):
        load(tmp_path / "fixed.onnx")
    with pytest.raises(InvalidBackbone, match=r"does not take float32 pictures \[2, 3, 40, 40\]"):
        load(files / "net.pt2", (40, 40))
    torch.jit.script(GivesVectorOfOne()).save(str(tmp_path / "one.pt"))
    with pytest.raises(InvalidBackbone, match=r"gives torch.float32 \[1, 1\] .* expected float32"):
        load(tmp_path / "one.pt")


def test_a_pickled_network_is_not_loaded(network, tmp_path):
    torch.save(network, tmp_path / "pickle.pt")
    with pytest.raises(InvalidBackbone, match="expected TorchScript"):
        Encoder(shape_of(EncoderConfig("frozen", backbone=str(tmp_path / "pickle.pt"))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exporting_a_frozen_backbone_without_onnx_says_what_is_missing(
    files, tmp_path, monkeypatch
):
    encoder = encoder_of("frozen", (32, 32), backbone=str(files / "net.pt"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InvalidBackbone, match="the package onnx is not installed"):
        encoder.trunks[0].body.graph()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mae"}, "encoder.name is 'mae', expected one of auto, spatial_softmax, cnn"),
        ({"width": -1}, "encoder.width is -1, expected a whole number of at least 0"),
        ({"name": "vit", "width": 50}, "encoder.width is 50, expected a multiple of 4"),
        ({"name": "resnet", "width": 40}, "encoder.width is 40, expected a multiple of 32"),
        ({"shared": "yes"}, "encoder.shared is 'yes', expected true or false"),
        ({"name": "frozen"}, "encoder.backbone is '', expected the path of a file"),
        ({"backbone": "a.pt"}, "encoder.backbone is 'a.pt', expected none but with frozen"),
        ({"std": (1.0, 0.0, 1.0)}, r"encoder.std is \(1.0, 0.0, 1.0\), expected three numbers"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**settings)


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(
        ValueError, match=r"shape.image_size is \(31, 64\), expected .* at least 32"
    ):
        shape_of(EncoderConfig(), (31, 64))


@pytest.mark.parametrize(("name", "width"), [("cnn", 0), ("vit", 96)])
def test_of_many_features_a_few_projections_tell_how_familiar_a_picture_is(name, width):
    encoder = encoder_of(name, (32, 32), width=width)
    assert encoder.features > LARGEST
    views = Views(2, (32, 32), encoder.features)
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(100, 140, (1, 2, 32, 32, 3), generator=generator)

    def near(count):
        noise = torch.randint(-9, 10, (count, 2, 32, 32, 3), generator=generator)
        return (base + noise).to(torch.uint8)

    def distances(images):
        return views(views.features(images, encoder.look(images)))

    with torch.no_grad():
        train = near(400)
        views.fit(views.features(train, encoder.look(train)))
        assert views.is_fitted
        assert views.parts[0].mean.shape[-1] == LARGEST
        assert distances(near(20)).max() < 1
        strange = near(20)
        strange[:, 1, 16:] = 0
        assert distances(strange)[:, 1].min() > 1
        assert distances(strange)[:, 0].max() < 1
