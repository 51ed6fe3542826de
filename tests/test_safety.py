"""The safety stage: it follows what is fresh and plausible, and holds or stops at all else."""

import contextlib
import dataclasses

import numpy as np
import pytest

from jepa_robot.robot.safety import FOLLOWING, HOLDING, STOPPED, Instant, SafetyStage, StaleInput

PERIOD = 0.004
TICK = 4_000_000
MS = 1_000_000


class Bench:
    """A safety stage with two clocks and a robot that follows exactly."""

    def __init__(self, contract, **kwargs):
        self.contract = contract
        self.stage = SafetyStage(contract, **kwargs)
        self.now, self.steady = 1_000_000_000, 77_000_000_000
        self.joints = np.array(contract.home)

    @property
    def at(self):
        return Instant(self.now, self.steady)

    def observe(self, joints=None, stamp=None):
        joints = self.joints if joints is None else joints
        self.stage.observe(joints, self.now if stamp is None else stamp, self.at)

    def follow(self, actions, stamp=None, topic="action", source=b"actor"):
        self.stage.follow(topic, actions, self.now if stamp is None else stamp, self.at, source)

    def run(self, ticks, observed=True):
        for _ in range(ticks):
            self.now += TICK
            self.steady += TICK
            if observed:
                self.observe()
            output = self.stage.tick(self.at)
            if output.motion is not None:
                self.joints = output.motion.positions
        return output

    def moving(self, ticks=20):
        """Get the arm into motion."""
        self.run(3)
        for _ in range(ticks):
            self.follow(FORWARD)
            output = self.run(1)
        assert output.state == FOLLOWING and not output.motion.is_at_rest
        return output


@pytest.fixture
def bench(contract):
    return Bench(contract)


FORWARD = np.array([[0.0, 1.0, 0.0]])


def test_nothing_is_commanded_before_the_joints_are_known(bench):
    output = bench.run(3, observed=False)
    assert output.motion is None and output.code == "no_joint_states"


def test_from_cold_it_holds_the_measured_joints_also_when_they_are_moved_by_hand(bench):
    bench.joints = np.array(bench.contract.home) + 0.1
    output = bench.run(5)
    assert output.state == HOLDING and output.code == "no_action"
    assert np.array_equal(output.motion.positions, bench.joints)
    moved = bench.joints = np.array(bench.contract.home) - 0.3
    for _ in range(3):
        bench.joints = moved
        output = bench.run(1)
    assert np.array_equal(output.motion.positions, moved)


def test_a_single_wrong_joint_state_is_never_where_the_arm_is_held(bench):
    bench.run(3)
    held, glitch = bench.joints.copy(), bench.joints + 0.4
    for joints in (glitch, held, glitch, glitch, held):
        bench.now += TICK
        bench.observe(joints)
        assert np.array_equal(bench.stage.tick(bench.at).motion.positions, held)
    bench.stage.stop("stop_requested")
    bench.now += TICK
    bench.observe(glitch)
    assert "expected them steady" in bench.stage.release(bench.at)
    for _ in range(12):
        bench.now += TICK
        bench.observe(held)
    assert not bench.stage.release(bench.at)
    assert np.array_equal(bench.stage.tick(bench.at).motion.positions, held)


def test_from_cold_noise_in_the_measured_joints_is_not_commanded(bench):
    bench.run(3)
    held = bench.joints
    for _ in range(20):
        bench.observe(held + np.random.default_rng(0).normal(0, 1e-3, 7))
        assert np.array_equal(bench.run(1, observed=False).motion.positions, held)


def test_a_stop_is_not_released_while_the_arm_still_moves(bench):
    bench.moving()
    bench.stage.stop("stop_requested")
    for step in range(3):
        bench.now += TICK
        bench.observe(bench.joints + 0.004 * step)  # 1 rad/s
    assert "still moves" in bench.stage.release(bench.at)
    bench.run(60)
    assert not bench.stage.release(bench.at)


def test_an_action_is_followed_and_then_held_when_none_follows(bench):
    bench.moving()
    moving = bench.joints
    output = bench.run(120)
    assert output.state == HOLDING and output.code == "action_stale"
    assert not np.array_equal(moving, bench.joints)
    at_rest = bench.joints
    bench.run(50)
    assert np.array_equal(at_rest, bench.joints)


def test_stale_joint_states_hold_the_arm(bench):
    bench.run(3)
    for _ in range(30):
        bench.follow(FORWARD)
        output = bench.run(1, observed=False)
    assert output.state == HOLDING and output.code == "joint_states_stale"


def test_watchdogs_bite_although_the_clock_stands_still(bench):
    bench.moving()
    for _ in range(60):  # 240 ms
        bench.steady += TICK
        output = bench.stage.tick(bench.at)
    assert output.code == "joint_states_stale" and output.motion.is_at_rest


@pytest.mark.parametrize("jump", [-5, 5, 3600])
def test_a_clock_that_jumps_holds_the_arm_and_then_it_goes_on(bench, jump):
    bench.moving()
    bench.now += jump * 1_000_000_000
    assert bench.run(1, observed=False).state == HOLDING
    for _ in range(20):
        bench.follow(FORWARD)
        output = bench.run(1)
    assert output.state == FOLLOWING


def test_what_is_too_old_or_from_the_future_is_dropped(bench):
    bench.moving()
    with pytest.raises(StaleInput, match=r"joint_states is 0.150 s old, expected at most 0.1 s"):
        bench.observe(bench.joints + 0.02, bench.now - 150 * MS)
    with pytest.raises(StaleInput, match=r"action is 2.000 s old, expected at most 0.3 s"):
        bench.follow(-FORWARD, bench.now - 2000 * MS)
    with pytest.raises(StaleInput, match=r"plan is stamped 5.000 s in the future"):
        bench.follow(-FORWARD, bench.now + 5000 * MS, "plan")
    assert bench.run(3).state == FOLLOWING
    assert bench.stage.limiter.velocities[0] > 0


def test_joint_states_that_were_overtaken_are_ignored(bench):
    bench.moving()
    newest = bench.stage.measured_now(bench.at)
    bench.observe(newest - 0.03, bench.now - 20 * MS)
    assert np.array_equal(bench.stage.measured_now(bench.at), newest)


def test_one_joint_state_that_jumps_is_dropped_and_the_third_stops_the_arm(bench):
    bench.moving()
    elsewhere = bench.joints + np.array([0, 0, 0.3, 0, 0, 0, 0])
    for count in range(3):
        bench.now, bench.steady = bench.now + TICK, bench.steady + TICK
        with pytest.raises(ValueError, match=r"panda_joint3 jumped by 0.3"):
            bench.observe(elsewhere)
        output = bench.stage.tick(bench.at)
        assert output.state == (STOPPED if count == 2 else FOLLOWING)
    before = output.motion.positions
    assert output.code == "joint_jump"
    bench.now, bench.steady = bench.now + TICK, bench.steady + TICK
    after = bench.stage.tick(bench.at).motion.positions
    assert np.abs(after - before).max() < 0.01  # it brakes where it was commanded


def test_rows_of_a_plan_are_taken_by_time(bench):
    bench.moving(80)
    plan = np.array([[0, 1.0, 0], [0, -1.0, 0]])
    bench.follow(plan[:1])
    bench.follow(plan, topic="plan")
    bench.follow(plan[:1])  # the action that goes with it comes after it
    bench.run(12)
    forward = bench.stage.limiter.velocities[0]
    bench.run(12)
    assert forward > 0.1
    assert bench.stage.limiter.velocities[0] < 0.5 * forward  # the second row turns it round
    assert bench.run(6).code == "action_stale"  # no third row


def test_an_older_action_does_not_replace_a_newer_one(bench):
    bench.moving()
    bench.follow(FORWARD)
    bench.follow(-FORWARD, bench.now - 50 * MS)
    bench.run(5)
    assert bench.stage.limiter.velocities[0] > 0


def test_a_requested_hold_lasts_until_an_action_from_a_later_observation(bench):
    bench.moving()
    bench.stage.hold(bench.now, "camera_side/image is frozen")
    output = bench.run(5)
    assert (output.state, output.code) == (HOLDING, "hold_requested")
    assert "frozen" in output.details
    bench.follow(FORWARD, bench.now - 20 * MS)  # from an observation before the hold
    assert bench.run(1).code == "hold_requested"
    bench.follow(FORWARD)
    assert bench.run(1).state == FOLLOWING


def test_two_senders_on_one_topic_hold_the_arm_while_both_send(bench):
    bench.moving()
    bench.follow(-FORWARD, source=b"rogue")
    output = bench.run(1)
    assert (output.state, output.code) == (HOLDING, "two_sources")
    assert "action" in output.details
    for _ in range(80):
        bench.follow(FORWARD)
        output = bench.run(1)
    assert output.state == FOLLOWING


def test_a_plan_from_another_process_than_the_actions_holds_the_arm(bench):
    bench.moving()
    bench.follow(FORWARD, topic="plan")
    assert bench.run(1).state == FOLLOWING
    bench.follow(FORWARD, topic="plan", source=b"rogue")
    assert bench.run(1).code == "two_sources"


def test_joints_that_jumped_and_stay_there_are_not_where_the_arm_is_released(bench):
    bench.moving()
    shown = np.zeros(7)
    shown[6] = 0.4
    for _ in range(30):
        bench.follow(FORWARD)
        before = bench.joints
        with contextlib.suppress(ValueError):
            bench.now, bench.steady = bench.now + TICK, bench.steady + TICK
            bench.observe(bench.joints + shown)
        output = bench.run(1, observed=False)
        assert np.abs(bench.joints - before).max() < 0.01
    assert output.code == "joint_jump"
    for joints, refusal in ((bench.joints + shown, "jumped to"), (bench.joints, "")):
        for _ in range(15):
            bench.now += TICK
            bench.observe(joints)
        assert refusal in bench.stage.release(bench.at)
    assert not bench.stage.is_stopped


def test_without_its_heartbeat_the_arm_holds(contract):
    watchdogs = dataclasses.replace(contract.watchdogs, heartbeat=0.05)
    bench = Bench(dataclasses.replace(contract, watchdogs=watchdogs))
    bench.run(3)
    bench.follow(FORWARD)
    assert bench.run(1).code == "heartbeat_missing"
    bench.stage.heartbeat(bench.at)
    assert bench.run(5).state == FOLLOWING
    assert bench.run(10).code == "heartbeat_missing"


def test_a_robot_outside_its_limits_is_held_where_it_is(contract):
    bench = Bench(contract)
    bench.joints = np.array(contract.home)
    bench.joints[3] = 0.0  # 0.1 rad above
    held = bench.joints.copy()
    bench.run(2)
    bench.follow(FORWARD)
    output = bench.run(5)
    assert output.code == "outside_limits" and "panda_joint4 is at 0.000 rad" in output.details
    assert np.array_equal(output.motion.positions, held)


def test_a_stop_is_latched_until_it_is_released(bench):
    bench.moving()
    bench.stage.stop("stop_requested", "by hand")
    bench.follow(FORWARD)
    output = bench.run(100)
    assert output.state == STOPPED and output.reason == "stop_requested: by hand"
    at_rest = bench.joints
    bench.follow(FORWARD)
    bench.run(10)
    assert np.array_equal(at_rest, bench.joints)
    assert bench.stage.release(bench.at) == ""
    assert bench.run(1).state == HOLDING  # until a new action comes
    bench.follow(FORWARD)
    assert bench.run(5).state == FOLLOWING


def test_a_stop_survives_a_restart(bench):
    again = Bench(bench.contract, stopped="tracking: 0.5 rad off")
    again.run(1)
    again.follow(FORWARD)
    output = again.run(5)
    assert (output.state, output.code, output.details) == (STOPPED, "tracking", "0.5 rad off")


def test_it_cannot_be_released_before_the_joints_are_known(contract):
    bench = Bench(contract, stopped="by hand")
    assert "no joint_states" in bench.stage.release(bench.at)
    assert bench.stage.is_stopped


def test_joints_that_do_not_follow_stop_the_arm_without_a_jump(bench):
    bench.moving()
    blocked = bench.joints
    for _ in range(400):
        bench.now, bench.steady = bench.now + TICK, bench.steady + TICK
        bench.observe(blocked)
        bench.follow(FORWARD)
        before = bench.stage.limiter.positions
        output = bench.stage.tick(bench.at)
        step = np.abs(output.motion.positions - before)
        assert (step <= bench.contract.limits("velocity") * PERIOD * 1.001).all()
    assert output.state == STOPPED and output.code == "tracking"


def test_a_dry_run_goes_on_although_nothing_moves(contract):
    bench = Bench(contract, is_dry_run=True)
    bench.run(1)
    still = bench.joints
    for _ in range(400):
        bench.now, bench.steady = bench.now + TICK, bench.steady + TICK
        bench.observe(still)
        bench.follow(FORWARD)
        output = bench.stage.tick(bench.at)
    assert output.state == FOLLOWING


def test_a_late_tick_does_not_jump_and_a_very_late_one_goes_on_from_rest(bench):
    most = bench.contract.limits("velocity") * 5 * PERIOD
    bench.moving()
    before = bench.joints
    for late, is_at_rest in ((3 * TICK, False), (3000 * MS, True)):
        bench.now, bench.steady = bench.now + late, bench.steady + late
        bench.observe(before)
        bench.follow(FORWARD)
        motion = bench.stage.tick(bench.at).motion
        assert (np.abs(motion.positions - before) <= most).all()
        slow = (
            np.abs(motion.velocities).max()
            <= 1.01 * bench.contract.limits("acceleration").max() * PERIOD
        )
        assert slow == is_at_rest
        before = motion.positions


def test_moving_again_begins_slowly(bench):
    bench.run(3)
    speeds = []
    for _ in range(100):
        bench.follow(FORWARD)
        output = bench.run(1)
        speeds.append(np.abs(output.motion.velocities).max())
    assert "ramp" not in output.limited
    assert speeds[20] < 0.5 * speeds[-1]


def test_contract_fields_cannot_be_changed_in_use(contract):
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.joints[0].upper = 100.0
