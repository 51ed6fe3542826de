"""The limiter and the safety stage: within the limits whatever comes, at rest if nothing comes."""

import dataclasses

import numpy as np
import pytest
import yaml

from jepa_robot import resources
from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.limiter import SafetyLimiter
from jepa_robot.robot.safety import FOLLOWING, HOLDING, STOPPED, SafetyStage

PERIOD = 0.004
TICK = 4_000_000


@pytest.fixture(params=["ee_twist", "joint_velocity"])
def robot(request, tmp_path):
    data = yaml.safe_load(resources.find("config/robots", "panda", ".yaml").read_text())
    if request.param == "joint_velocity":
        names = [joint["name"] for joint in data["joints"]]
        channels = [{"name": name, "unit": "rad/s", "scale": 1.5} for name in names]
        data["actions"] = {"kind": "joint_velocity", "channels": channels}
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


def test_commands_stay_within_the_limits_under_any_action(robot):
    limiter, rng = SafetyLimiter(robot), np.random.default_rng(0)
    limiter.reset(robot.home)
    last, last_velocity = limiter.positions.copy(), np.zeros(7)
    action = np.zeros(robot.actions.size)
    for step in range(5000):
        if step % 40 == 0:
            action = rng.choice([-5.0, -1.0, 0.0, 1.0, 5.0], robot.actions.size)
        positions, _ = limiter.step(PERIOD, None if step % 400 > 360 else action)
        velocity = (positions - last) / PERIOD
        acceleration = (velocity - last_velocity) / PERIOD
        assert (positions >= robot.limits("lower") - 1e-9).all()
        assert (positions <= robot.limits("upper") + 1e-9).all()
        assert (np.abs(velocity) <= robot.limits("velocity") + 1e-6).all()
        assert (np.abs(acceleration) <= robot.limits("acceleration") * 1.01 + 1e-6).all()
        last, last_velocity = positions.copy(), velocity


def test_the_hand_stays_in_the_workspace_and_upright(contract):
    limiter, rng = SafetyLimiter(contract), np.random.default_rng(1)
    limiter.reset(contract.home)
    lower, upper = contract.workspace
    upright = limiter.kinematics.pose(limiter.positions)[1]
    action = np.zeros(3)
    for step in range(4000):
        if step % 100 == 0:
            action = rng.choice([-1.0, 1.0], 3)
        limiter.step(PERIOD, action)
        position, rotation = limiter.kinematics.pose(limiter.positions)
        assert (position > np.array(lower) - 0.03).all()
        assert (position < np.array(upper) + 0.03).all()
        assert np.trace(upright.T @ rotation) > 2.9  # within 18 degrees


def test_twist_moves_the_hand_as_the_contract_says(contract):
    limiter = SafetyLimiter(contract)
    limiter.reset(contract.home)
    before = limiter.kinematics.pose(limiter.positions)[0]
    for _ in range(250):
        limiter.step(PERIOD, np.array([0.0, 0.25, -0.5]))
    moved = limiter.kinematics.pose(limiter.positions)[0] - before
    assert np.allclose(moved, [0.0, 0.1, -0.2], atol=0.01)  # 0.4 m/s for 1 s, less the ramp


def test_stepping_before_the_joints_are_known_is_an_error(contract):
    with pytest.raises(RuntimeError, match="before reset"):
        SafetyLimiter(contract).step(PERIOD, None)


class Bench:
    """A safety stage with a clock and a robot that follows exactly."""

    def __init__(self, contract, **kwargs):
        self.contract = contract
        self.stage = SafetyStage(contract, **kwargs)
        self.now = 1_000_000_000
        self.joints = np.array(contract.home)

    def run(self, ticks, observed=True):
        for _ in range(ticks):
            self.now += TICK
            if observed:
                self.stage.observe(self.joints, self.now)
            output = self.stage.tick(self.now, PERIOD)
            if output.positions is not None:
                self.joints = output.positions
        return output


@pytest.fixture
def bench(contract):
    return Bench(contract)


FORWARD = np.array([[0.0, 1.0, 0.0]])


def test_nothing_is_commanded_before_the_joints_are_known(bench):
    output = bench.run(3, observed=False)
    assert output.positions is None and output.reason == "no_joint_states"


def test_from_cold_it_holds_the_measured_joints(bench):
    bench.joints = np.array(bench.contract.home) + 0.1
    output = bench.run(5)
    assert output.state == HOLDING and output.reason == "no_action"
    assert np.array_equal(output.positions, bench.joints)


def test_an_action_is_followed_and_then_held_when_none_follows(bench):
    bench.run(1)
    bench.stage.follow(FORWARD, bench.now)
    assert bench.run(20).state == FOLLOWING
    moving = bench.joints
    output = bench.run(100)
    assert output.state == HOLDING and output.reason == "action_stale"
    assert not np.array_equal(moving, bench.joints)
    at_rest = bench.joints
    bench.run(50)
    assert np.array_equal(at_rest, bench.joints)


def test_stale_joint_states_hold_the_arm(bench):
    bench.run(1)
    for _ in range(30):
        bench.stage.follow(FORWARD, bench.now)
        output = bench.run(1, observed=False)
    assert output.state == HOLDING and output.reason == "joint_states_stale"


def test_rows_of_a_plan_are_taken_by_time(bench):
    bench.run(1)
    plan = np.array([[0, 1.0, 0], [0, -1.0, 0]])
    bench.stage.follow(plan[:1], bench.now)
    bench.stage.follow(plan, bench.now)
    bench.stage.follow(plan[:1], bench.now)  # the action that goes with it comes after it
    bench.run(12)
    forward = bench.stage.limiter.velocities[0]
    bench.run(12)
    assert forward > 0.1
    assert bench.stage.limiter.velocities[0] < 0.1 * forward  # the second row turns it round
    assert bench.run(6).reason == "action_stale"  # no third row


def test_an_older_action_does_not_replace_a_newer_one(bench):
    bench.run(10)
    bench.stage.follow(FORWARD, bench.now)
    bench.stage.follow(-FORWARD, bench.now - 50_000_000)
    bench.run(5)
    assert bench.stage.limiter.velocities[0] > 0


def test_a_stop_is_latched_until_it_is_released(bench):
    bench.run(1)
    bench.stage.follow(FORWARD, bench.now)
    bench.run(10)
    bench.stage.stop("by hand")
    bench.stage.follow(FORWARD, bench.now)
    output = bench.run(100)
    assert output.state == STOPPED and output.reason == "by hand"
    at_rest = bench.joints
    bench.stage.follow(FORWARD, bench.now)
    bench.run(10)
    assert np.array_equal(at_rest, bench.joints)
    assert bench.stage.release() == ""
    assert bench.run(1).state == HOLDING  # until a new action comes
    bench.stage.follow(FORWARD, bench.now)
    assert bench.run(5).state == FOLLOWING


def test_a_stop_survives_a_restart(contract):
    bench = Bench(contract, stopped="by hand")
    bench.run(1)
    bench.stage.follow(FORWARD, bench.now)
    assert bench.run(5).state == STOPPED


def test_it_cannot_be_released_before_the_joints_are_known(contract):
    stage = SafetyStage(contract, stopped="by hand")
    assert "no joint_states" in stage.release()
    assert stage.is_stopped


def test_joints_far_from_where_they_were_commanded_stop_the_arm(bench):
    bench.run(1)
    bench.stage.follow(FORWARD, bench.now)
    bench.run(5)
    bench.joints = bench.joints + 0.5
    output = bench.run(1)
    assert output.state == STOPPED and "tracking" in output.reason


def test_a_late_tick_does_not_jump(bench):
    bench.run(1)
    bench.stage.follow(FORWARD, bench.now)
    bench.run(10)
    before = bench.joints
    bench.stage.observe(before, bench.now)
    after = bench.stage.tick(bench.now, 3.0).positions
    most = bench.contract.limits("velocity") * 5 * PERIOD
    assert (np.abs(after - before) <= most).all()


def test_contract_fields_cannot_be_changed_in_use(contract):
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.joints[0].upper = 100.0
