"""ROS 2 bags become recordings: what the robot saw, felt and did, at the contract's rate."""

import dataclasses
from collections.abc import Iterator

import cv2
import mcap.writer
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from jepa_robot.bags import InvalidBag
from jepa_robot.cli.main import app
from jepa_robot.dataset import InvalidDataset, open_dataset, read_about
from jepa_robot.importing import BagSettings, import_bags
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot_sim.exploration import explore
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.tasks import Reach

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
BEGIN, STEP = 1_700_000_000_000_000_000, 50_000_000  # ns
FRAMES = 25


@pytest.fixture(scope="module")
def lived(contract):
    """Observations and the action at each but the last."""
    robot, task = InProcessRobot(contract), Reach(contract)
    rng = np.random.default_rng(0)
    seen = [robot.reset(task.joints_at(task.sample_position(rng)))]
    actions = 0.5 * explore(rng, FRAMES - 1, contract.actions.size)
    for action in actions:
        seen.append(robot.step(action))
    robot.close()
    return seen, actions


def header(stamp):
    time = TYPES["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id="")


def picture(image, stamp, encoding="rgb8"):
    values = image if encoding == "rgb8" else image[..., ::-1]
    height, width = image.shape[:2]
    data = np.ascontiguousarray(values).ravel()
    known = (height, width, encoding, 0, 3 * width, data)
    return TYPES["sensor_msgs/msg/Image"](header(stamp), *known)


def compressed(image, stamp, kind="png"):
    data = cv2.imencode(f".{kind}", image[..., ::-1])[1].ravel()
    return TYPES["sensor_msgs/msg/CompressedImage"](header(stamp), kind, data)


def joint_state(contract, seen, stamp):
    names = ["other_joint", *reversed(contract.joint_names)]
    positions, velocities = ([9.0, *v[::-1]] for v in (seen.positions, seen.velocities))
    return TYPES["sensor_msgs/msg/JointState"](
        header(stamp), names, np.array(positions), np.array(velocities), np.zeros(0)
    )


def tensor(values, stamp):
    data = np.frombuffer(np.asarray(values, "<f4").tobytes(), np.uint8)
    known = (1, len(values), "32FC1", 0, 4 * len(values), data)
    return TYPES["sensor_msgs/msg/Image"](header(stamp), *known)


def messages(contract, lived, pictures=picture, prefix="", has_actions=True) -> Iterator[tuple]:
    """Topic, stamp and message of all that was lived; joint states come twice a frame."""
    seen, actions = lived
    for number, now in enumerate(seen):
        stamp = BEGIN + number * STEP
        for camera, image in zip(contract.cameras, now.images, strict=True):
            suffix = "/compressed" if pictures is compressed else ""
            yield f"{prefix}/{camera.topic}{suffix}", stamp, pictures(image, stamp)
        for later in (0, STEP // 2):
            then = now
            if later and number + 1 < len(seen):
                after = seen[number + 1]
                then = dataclasses.replace(
                    now,
                    positions=(now.positions + after.positions) / 2,
                    velocities=(now.velocities + after.velocities) / 2,
                )
            message = joint_state(contract, then, stamp + later)
            yield f"{prefix}/joint_states", stamp + later, message
        if has_actions and number < len(actions):
            yield f"{prefix}/action", stamp, tensor(actions[number], stamp)


def write(path, rows, plugin=StoragePlugin.SQLITE3):
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, stamp, message in rows:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], stamp, STORE.serialize_cdr(message, kind))
    return path


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("pictures", [picture, compressed])
def test_what_was_recorded_comes_back(tmp_path, contract, lived, plugin, pictures):
    bag = write(tmp_path / "bag", messages(contract, lived, pictures), plugin)
    done = import_bags([bag], tmp_path / "data.h5", contract)
    assert (done.frames, done.episodes, done.problems) == (FRAMES, 1, [])
    assert done.actions == {"action"}
    data = open_dataset(tmp_path / "data.h5", contract.interface())
    seen, actions = lived
    assert np.array_equal(data.images(np.arange(FRAMES)), [np.stack(o.images) for o in seen])
    felt = [np.concatenate([o.positions, o.velocities]) for o in seen]
    assert np.allclose(data.columns["proprio"], felt, atol=1e-6)
    assert np.allclose(data.columns["action"][:-1], actions, atol=1e-6)
    hands = Kinematics(contract).position(np.array([o.positions for o in seen]))
    assert np.allclose(data.columns["hand_position"], hands, atol=1e-6)
    assert data.about.goal == "hand_position" and data.about.runs[0]["bags"] == ["bag"]


def test_without_actions_they_are_how_the_arm_moved(tmp_path, contract, lived):
    bag = write(tmp_path / "bag", messages(contract, lived, has_actions=False))
    done = import_bags([bag], tmp_path / "data.h5", contract)
    assert done.actions == {"motion"}
    moved = open_dataset(tmp_path / "data.h5").columns["action"][:-1]
    hands = Kinematics(contract).position(np.array([o.positions for o in lived[0]]))
    speeds = np.diff(hands, axis=0) / contract.rates.time_step
    assert np.allclose(moved, speeds / contract.actions.scale, atol=1e-5)
    with pytest.raises(InvalidBag, match="has no action to take actions from"):
        import_bags([bag], tmp_path / "d2.h5", contract, settings=BagSettings(actions="action"))
    with pytest.raises(ValueError, match="actions is 'magic', expected one of auto, action"):
        BagSettings(actions="magic")


def test_commanded_positions_are_actions_where_there_are_no_others(tmp_path, contract, lived):
    rows = list(messages(contract, lived, has_actions=False))
    kind = TYPES["std_msgs/msg/Float64MultiArray"]
    layout = TYPES["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    for number, seen in enumerate(lived[0]):
        goal = seen.positions + 0.01 * np.sin(0.3 * number)
        rows.append(("/command", BEGIN + number * STEP, kind(layout, goal)))
    bag = write(tmp_path / "bag", rows)
    done = import_bags([bag], tmp_path / "data.h5", contract)
    assert done.actions == {"commands"}
    taken = open_dataset(tmp_path / "data.h5").columns["action"][:-1]
    bent = [o.positions + 0.01 * np.sin(0.3 * n) for n, o in enumerate(lived[0])]
    speeds = np.diff(Kinematics(contract).position(np.array(bent)), axis=0)
    speeds /= contract.rates.time_step * contract.actions.scale
    assert np.allclose(taken, np.clip(speeds, -1, 1), atol=1e-5)


def test_other_names_a_namespace_and_bgr(tmp_path, contract, lived):
    def flipped(image, stamp):
        return picture(image, stamp, "bgr8")

    topic = f"/left/{contract.cameras[0].topic}"
    rows = [
        ("/real/color" if name == topic else name, stamp, message)
        for name, stamp, message in messages(contract, lived, flipped, "/left")
    ]
    bag = write(tmp_path / "bag", rows)
    with pytest.raises(InvalidBag, match=rf"has no topic {topic}, expected .*/real/color"):
        import_bags([bag], tmp_path / "data.h5", contract, settings=BagSettings(namespace="left"))
    names = {contract.cameras[0].topic: "/real/color"}
    settings = BagSettings(topics=names, namespace="left")
    import_bags([bag], tmp_path / "data.h5", contract, settings=settings)
    data = open_dataset(tmp_path / "data.h5")
    assert np.array_equal(data.images(np.arange(FRAMES))[3], np.stack(lived[0][3].images))


def test_gaps_jumps_and_what_is_no_number_end_episodes(tmp_path, contract, lived):
    rows = []
    for topic, stamp, message in messages(contract, lived):
        frame = (stamp - BEGIN) // STEP
        if frame in (8, 9) and topic.endswith("image"):
            continue  # dropped
        if frame in (4, 5) and topic == "/joint_states":
            message.position[3] = np.nan
        rows.append((topic, stamp, message))
    again = [(topic, stamp + 10**12, m) for topic, stamp, m in messages(contract, lived)]
    bag = write(tmp_path / "bag", [*rows, *again])  # stamps of the headers go back
    done = import_bags([bag], tmp_path / "data.h5", contract)
    text = "\n".join(done.problems)
    assert "the clock jumps back by 1.2" in text and "2 of 25 frames lack pictures" in text
    assert "/joint_states: 4 message(s) with what is no number are left out" in text
    assert "2 of 25 frames lack joint states, the first 0.2 s after the begin" in text
    assert done.episodes == 3  # what is between two gaps is too short for one
    data = open_dataset(tmp_path / "data.h5", contract.interface())
    assert data.lengths.tolist()[-1] == FRAMES and data.lengths.sum() < 2 * FRAMES - 2


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def write_mcap(path, rows):
    """One file of many chunks, as ``ros2 bag record`` writes them."""
    with path.open("wb") as stream:
        writer = mcap.writer.Writer(stream, chunk_size=50_000)
        writer.start("ros2")
        channels = {}
        for topic, stamp, message in rows:
            kind = message.__msgtype__
            if topic not in channels:
                text = STORE.generate_msgdef(kind, ros_version=2)[0].encode()
                schema = writer.register_schema(kind, "ros2msg", text)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(STORE.serialize_cdr(message, kind))
            writer.add_message(channels[topic], stamp, data, stamp)
        writer.finish()
    return path


def test_others_may_publish_joint_states_too(tmp_path, contract, lived):
    rows = list(messages(contract, lived))
    for number in range(FRAMES):
        stamp = BEGIN + number * STEP + 1
        kind = TYPES["sensor_msgs/msg/JointState"]
        alone = kind(header(stamp), ["finger"], np.array([0.01]), np.zeros(0), np.zeros(0))
        short = kind(header(stamp), list(contract.joint_names), np.zeros(3), *[np.zeros(0)] * 2)
        rows += [("/joint_states", stamp, alone), ("/joint_states", stamp, short)]
    rows.sort(key=lambda row: row[1])
    done = import_bags([write(tmp_path / "bag", rows)], tmp_path / "data.h5", contract)
    assert done.frames == FRAMES
    assert done.problems[0].endswith(f"{FRAMES} message(s) with what is no number are left out")


def test_of_a_file_that_is_cut_off_the_good_part_is_kept(tmp_path, contract, lived):
    bag = write_mcap(tmp_path / "bag.mcap", messages(contract, lived))
    assert import_bags([bag], tmp_path / "whole.h5", contract).frames == FRAMES
    cut(bag, 0.6)
    done = import_bags([bag], tmp_path / "data.h5", contract)
    assert any("is cut off" in problem for problem in done.problems)
    assert 5 < done.frames < FRAMES
    cut(bag, 0.01)
    with pytest.raises(InvalidBag, match="cannot be read"):
        import_bags([bag], tmp_path / "other.h5", contract)


def test_a_damaged_database_is_named(tmp_path, contract, lived):
    bag = write(tmp_path / "bag", messages(contract, lived))
    cut(next(bag.glob("*.db3")), 0.5)
    try:
        done = import_bags([bag], tmp_path / "data.h5", contract)
    except InvalidBag as error:
        assert str(bag) in str(error)
    else:
        assert any("is cut off" in problem for problem in done.problems)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c, t, m: None if t == "/joint_states" else m, "has no topic /joint_states"),
        (
            lambda c, t, m: dataclasses.replace(m, name=["a"] * 8) if t == "/joint_states" else m,
            r"joint_states has \['a', .*expected \['panda_joint1'",
        ),
        (
            lambda c, t, m: picture(np.zeros((48, 64, 3), np.uint8), BEGIN) if "side" in t else m,
            "camera_side/image is 64x48, expected 64x64",
        ),
        (
            lambda c, t, m: dataclasses.replace(m, encoding="bayer") if "side" in t else m,
            "camera_side/image is bayer, expected one of rgb8",
        ),
        (
            lambda c, t, m: tensor([0.0], BEGIN) if t == "/action" else m,
            "action is 1x1 32FC1, expected 1x3 32FC1",
        ),
        (
            lambda c, t, m: joint_state(c[0], c[1], BEGIN) if "side" in t else m,
            "camera_side/image is sensor_msgs/msg/JointState, expected",
        ),
    ],
)
def test_a_bag_of_something_else_is_refused(tmp_path, contract, lived, change, complaint):
    rows = (
        (topic, stamp, change((contract, lived[0][0]), topic, message))
        for topic, stamp, message in messages(contract, lived)
    )
    bag = write(tmp_path / "bag", [row for row in rows if row[2] is not None])
    with pytest.raises(InvalidBag, match=complaint):
        import_bags([bag], tmp_path / "data.h5", contract)
    assert not (tmp_path / "data.h5").exists()


def test_a_video_codec_that_is_not_there_is_named(tmp_path, contract, lived):
    def video(image, stamp):
        message = compressed(image, stamp)
        message.format, message.data = "h264", np.arange(20, dtype=np.uint8)
        return message

    rows = [
        (f"{topic}/compressed" if topic.endswith("image") else topic, stamp, message)
        for topic, stamp, message in messages(contract, lived, video)
    ]
    bag = write(tmp_path / "bag", rows)
    with pytest.raises(InvalidBag, match="format 'h264' cannot be decoded, expected jpeg or png"):
        import_bags([bag], tmp_path / "data.h5", contract)


def test_the_command_appends_and_says_what_came(tmp_path, contract, lived):
    bag = write(tmp_path / "bag", messages(contract, lived))
    file = str(tmp_path / "data.h5")
    result = CliRunner().invoke(app, ["import", file, str(bag)])
    assert result.exit_code == 0, result.output
    assert f"{FRAMES} frames of 1 episodes" in result.output
    result = CliRunner().invoke(app, ["import", file, str(bag), str(bag), "--append"])
    assert result.exit_code == 0 and open_dataset(file).episodes == 3
    assert len(read_about(file).runs) == 2
    with pytest.raises(FileExistsError, match="--append"):
        import_bags([bag], tmp_path / "data.h5", contract)
    with pytest.raises(InvalidDataset, match="task is 'reach', expected 'push'"):
        import_bags([bag], tmp_path / "data.h5", contract, task="push", append=True)
    with pytest.raises(InvalidBag, match="is missing, expected a ROS 2 bag"):
        import_bags([tmp_path / "none"], tmp_path / "other.h5", contract)
