"""Actor node: state in, action (Mode-1) or plan (Mode-2) out."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import Image

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import AUTO, MODE_2, OFF, PLANNING_MODES, Actor, ActorConfig
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.distributed import LOCAL, PLACES, check_distributable
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import COMMAND
from jepa_robot.nodes.requests import Requests
from jepa_robot.nodes.runtime import ANSWERING, PLANNING, main, schedule

DEADLINE = 0.8  # of a time step: when an any-time planner has to answer, on real time
RESERVED = 0.2  # of it: for interruptions, and what is left to do with a plan
REPLY_TIMEOUT, LONGEST_TIMEOUT = 0.5, 100.0  # of a time step: for distributed planning
DURATION_MEMORY = 0.9  # of the running means of planning times and of plans' ages
IN_TIME = 0.2  # of a time step that a plan may miss of a row of its own
MOST_IN_FLIGHT = 10  # time steps that are imagined before a plan takes effect


@dataclass(frozen=True)
class PublishedPlan:
    """A plan ``[H, A]`` whose row 0 is in force from ``stamp`` (ns)."""

    stamp: int
    rows: np.ndarray


class ActorNode(AgentNode):
    """Mode-1 answers in the callback; Mode-2 plans in a thread beside it.

    The safety stage takes a plan's rows by time, so an old plan acts on while a new one is made;
    when that takes longer than a time step, Mode-1 answers meanwhile.

    Where ``planning`` is distributed, world model and cost nodes are asked what candidates cost.
    """

    def __init__(self) -> None:
        super().__init__("actor")
        self.declare_parameter("planning", LOCAL)
        self.declare_parameter("reply_timeout", REPLY_TIMEOUT)
        self._requests: Requests | None = None
        self._worker: threading.Thread | None = None

    def setup(self) -> None:
        self._requests = self._make_requests()
        self._action = self.publisher(Image, "action", COMMAND)
        self._plan = self.publisher(Image, "plan", COMMAND)
        self._step = int(1e9 * self.contract.rates.time_step)
        self._wake = threading.Condition()
        self._task: tuple[int, np.ndarray] | None = None  # the newest state to plan from
        self._busy_since: float | None = None
        self._last: PublishedPlan | None = None
        self._acting: PublishedPlan | None = None  # what was published last, a reaction or a plan
        self._duration = 0.0  # s, running mean
        self._age = 0.0  # ns, of the observation when its plan is there, running mean
        self._planned_at: int | None = None  # ns, of the observation that was last planned from
        self._wanted: tuple[int, bool] | None = None  # whether an observation asks for a plan
        self._plans = self._unimproved = self._late = 0
        self._taken_up = 0  # configurations so far: a plan belongs to the one it began under

    def build(self, bundle: Bundle) -> tuple[WorldModel, Cost, Actor]:
        model, cost = WorldModel(bundle), Cost(bundle, self.contract)
        if not self._requests:
            cost.check("plan")
        return model, cost, Actor(bundle, model, cost, self._requests)

    def prepare(
        self,
        built: tuple[WorldModel, Cost, Actor] | None,
        parsed: tuple[ActorConfig, CostConfig],
    ) -> None:
        """Of another bundle, the graphs are loaded and were run before it acts."""
        if built is not None:
            _, cost, actor = built
            cost.configure(parsed[1])
            actor.configure(parsed[0])
            actor.warm_up()

    def adopt(self, built: tuple[WorldModel, Cost, Actor]) -> None:
        with self._wake:
            self._model, self._cost, self._actor = built

    def _make_requests(self) -> Requests | None:
        planning, timeout = self.parameter("planning"), self.parameter("reply_timeout")
        if planning not in PLACES:
            raise ValueError(f"planning is {planning!r}, expected one of {list(PLACES)}")
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise ValueError(
                f"reply_timeout is {timeout:g}, expected time steps, above 0, to "
                f"{LONGEST_TIMEOUT:g}"
            )
        if planning == LOCAL:
            return None
        return Requests(self, timeout * self.contract.rates.time_step)

    def connect(self) -> None:
        self._is_running = True
        if self._requests:
            self._requests.connect()
        self._worker = threading.Thread(target=self._plan_for_ever, daemon=True)
        self._worker.start()
        self.subscribe(Image, "state", self._on_state, messages.DATA)

    def parse(self, sections: dict, bundle: Bundle) -> tuple[ActorConfig, CostConfig]:
        config = ActorConfig.from_section(sections["actor"], bundle.latent_size, bundle.precisions)
        if self._requests:
            check_distributable(config.planner_name)
        return config, CostConfig.for_bundle(sections["cost"], bundle, self.contract)

    def apply(self, parsed: tuple[ActorConfig, CostConfig]) -> None:
        with self._wake:
            self._actor.configure(parsed[0])
            self._cost.configure(parsed[1])
            self._task = self._last = self._acting = self._wanted = self._planned_at = None
            self._taken_up += 1
            self._actor.warm_up()
        if self._requests:
            self._requests.cancel()
        self.diagnostics.values["mode"] = parsed[0].mode
        horizon, trained = parsed[0].planner.horizon, self.bundle.trained_horizon
        if parsed[0].mode in PLANNING_MODES and trained and horizon > trained:
            self.diagnostics.warn(
                f"planner.horizon is {horizon}, further than the {trained} steps that the world "
                "model was trained on"
            )

    def _on_state(self, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        self.configure_for(stamp)
        state = messages.read_tensor(
            message, "state", self.bundle.state_size, frame_id=self.frame_of(stamp)
        )
        if self._actor.config.mode == OFF:
            return
        wants_plan = self._wants_plan(stamp, state)
        if not wants_plan or self._reacts_meanwhile() or self._only_looks():
            reaction = self._actor.react(state)
            self._acting = PublishedPlan(stamp, reaction)
            self._publish(self._action, reaction, stamp)
            self._actor.acted(state, reaction)
        if wants_plan:
            with self._wake:
                self._task = (stamp, state)
                self._wake.notify()

    def _wants_plan(self, stamp: int, state: np.ndarray) -> bool:
        """Asked once for an observation, also where it is sent again."""
        if self._wanted is None or self._wanted[0] != stamp:
            self._wanted = (stamp, self._actor.wants_plan(state))
            if self._actor.config.mode == AUTO:
                self.diagnostics.values |= {
                    "engaged": self._actor.switch.is_engaged,
                    "planned_share": round(self._actor.planned, 3),
                }
        return self._wanted[1]

    def _reacts_meanwhile(self) -> bool:
        return self._is_planner_late() and self._can_react()

    def _only_looks(self) -> bool:
        """In mode auto a plan may be for comparison alone. In lock-step the answer waits for it."""
        is_auto = self._actor.config.mode == AUTO
        return is_auto and not self._actor.switch.is_engaged and not self.is_lockstep

    @property
    def _replans_continuously(self) -> bool:
        """Only on real time: in lock-step one observation has one answer."""
        config = self._actor.config
        return config.replan == "continuous" and config.mode == MODE_2 and not self.is_lockstep

    def _can_react(self) -> bool:
        return self._actor.config.goal_latent is not None

    def _is_planner_late(self) -> bool:
        since = self._busy_since
        is_late = since is not None and time.monotonic() - since > self._step / 1e9
        return is_late and not self.is_lockstep

    def _plan_for_ever(self) -> None:
        task = None
        schedule(niceness=PLANNING)  # the policy's and others' answers come first
        while True:
            with self._wake:
                replans = self._replans_continuously and task is not None
                while self._task is None and self._is_running and not replans:
                    self._wake.wait()
                if not self._is_running:
                    return
                task = self._task or task
                self._task = None
                is_planning = self._actor.config.mode in PLANNING_MODES
                taken_up = self._taken_up
            if not is_planning:
                task = None
                continue
            self._busy_since = time.monotonic()
            try:
                self._plan_once(*task, taken_up)
            except Exception as error:  # a thread that ends in silence would never plan again
                if not self.context.ok():
                    return  # the process ends
                self.diagnostics.error(f"no plan: {error!r}")
                task = None
            self._busy_since = None

    def _plan_once(self, stamp: int, state: np.ndarray, taken_up: int) -> None:
        last = self._last
        if last is not None and last.stamp == stamp and self.is_lockstep:
            self._publish_plan(last)  # the observation was sent again: so is the answer
            return
        begin = time.monotonic()
        allowed = self._actor.config.deadline or DEADLINE * self._step / 1e9
        deadline = None if self.is_lockstep else begin + (1 - RESERVED) * allowed
        in_flight = self._rows_in_flight(stamp)
        then = state
        if len(in_flight):
            then = self._model.rollout(state, in_flight[None])[:, -1]
        before = in_flight[-1:] if len(in_flight) else None
        shift = self._steps_since(self._planned_at, stamp)
        if self._requests:
            self._requests.begin(stamp, self.version)
        made = self._actor.plan(then, shift, deadline, before)
        if self._requests:
            self._requests.end()
        self._planned_at = stamp
        taken = time.monotonic() - begin
        self._duration = DURATION_MEMORY * self._duration + (1 - DURATION_MEMORY) * taken
        self._age = DURATION_MEMORY * self._age + (1 - DURATION_MEMORY) * (self.now() - stamp)
        rows = np.concatenate([in_flight, self._actor.choose(then, made.actions[0])])
        plan = PublishedPlan(stamp, rows)
        with self._wake:
            if taken_up != self._taken_up:
                return  # made under a configuration that is no longer in force
            is_answer = not self._only_looks()
            self._last = plan if is_answer else None
            self._acting = plan if is_answer else self._acting
        if is_answer:
            self._actor.acted(state, rows[:1])
            self._publish_plan(plan)
        self._plans += 1
        self._unimproved += not made.iterations
        self._late += deadline is not None and taken > allowed
        self.diagnostics.values |= {
            "planning_ms": round(1000 * self._duration, 2),
            "iterations": made.iterations,
            "plans": self._plans,
            "plans_late": self._late,
            "plans_unimproved": self._unimproved,  # the deadline left no time for an iteration
            "plan_age_ms": round((self.now() - stamp) / 1e6, 1),
        }

    def _steps_since(self, before: int | None, stamp: int) -> int:
        return 0 if before is None else max(round((stamp - before) / self._step), 0)

    def _rows_in_flight(self, stamp: int) -> np.ndarray:
        """``[k, A]``: what the arm will have done before a plan made now takes effect.

        A row of which most would come too late is not planned: what acts meanwhile does so then.
        """
        acting = self._acting
        if acting is None or self.is_lockstep:
            return np.zeros((0, self.bundle.action_size), np.float32)
        steps = min(max(math.ceil(self._age / self._step - IN_TIME), 0), MOST_IN_FLIGHT)
        passed = self._steps_since(acting.stamp, stamp)
        indices = np.minimum(np.arange(passed, passed + steps), len(acting.rows) - 1)
        return acting.rows[indices]

    def _publish_plan(self, plan: PublishedPlan) -> None:
        self._publish(self._plan, plan.rows, plan.stamp)
        self._publish(self._action, plan.rows[:1], plan.stamp)

    def _publish(self, publisher, tensor: np.ndarray, stamp: int) -> None:
        publisher.publish(messages.tensor_message(tensor, stamp, self.frame_of(stamp)))

    def disconnect(self) -> None:
        if self._worker is None:
            return
        if self._requests:
            self._requests.close()
        with self._wake:
            self._is_running = False
            self._wake.notify()
        self._worker.join()
        self._worker = None


def run() -> None:
    main(ActorNode, realtime=ANSWERING)


if __name__ == "__main__":
    run()
