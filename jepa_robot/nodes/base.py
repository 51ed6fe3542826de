"""What all our nodes share: lifecycle with errors that are told, configuration, diagnostics."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from jepa_robot.models import AUTO_PROVIDER, Bundle
from jepa_robot.modules.configurator import Configuration
from jepa_robot.nodes.messages import LATCHED
from jepa_robot.nodes.runtime import Diagnostics
from jepa_robot.robot.contract import RobotContract, load_contract

KEPT_CONFIGURATIONS = 4


class AgentNode(LifecycleNode):
    """A lifecycle node around one module.

    A subclass builds its module in ``setup``, subscribes in ``connect`` through
    :meth:`subscribe`, and takes up configurations in ``parse`` and ``apply``.
    """

    takes_configurations = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.declare_parameter("robot", "panda")
        self.declare_parameter("bundle", "reach_panda")
        self.declare_parameter("threads", 1)
        self.declare_parameter("provider", AUTO_PROVIDER)
        self.diagnostics = Diagnostics(self)
        self.contract: RobotContract
        self.bundle: Bundle
        self.version = 0  # of the configuration in force
        self._pending: list[tuple[int, int, Any]] = []
        self.parsed: dict[int, Any] = {}  # the newest configurations, by version
        self._made: list[tuple[Callable, Any]] = []
        self._subscriptions_made: list[Any] = []

    # To be provided by a subclass.

    def setup(self) -> None:
        """Build the module and the publishers. Errors make the transition fail."""
        raise NotImplementedError

    def connect(self) -> None:
        """Subscribe; called on activation."""
        raise NotImplementedError

    def parse(self, sections: dict) -> Any:
        """Check the sections of a configuration; errors refuse it."""

    def apply(self, parsed: Any) -> None:
        """Take up what ``parse`` returned."""

    # Helpers for a subclass.

    def parameter(self, name: str) -> Any:
        return self.get_parameter(name).value

    def now(self) -> int:
        """The node's clock in ns."""
        return self.get_clock().now().nanoseconds

    @property
    def is_lockstep(self) -> bool:
        """On simulated time a budget is a number of iterations, so that runs repeat."""
        return bool(self.parameter("use_sim_time"))

    def publisher(self, message_type: type, topic: str, qos: Any) -> Any:
        """A publisher that lives until the node is cleaned up."""
        publisher = self.create_publisher(message_type, topic, qos)
        self._made.append((self.destroy_publisher, publisher))
        return publisher

    def subscribe(self, message_type: type, topic: str, callback: Callable, qos: Any) -> None:
        """Subscribe until deactivation; a ValueError drops the message and is told."""
        subscription = self.create_subscription(message_type, topic, self.guarded(callback), qos)
        self._subscriptions_made.append(subscription)

    def guarded(self, callback: Callable) -> Callable:
        def call(message: Any) -> None:
            try:
                callback(message)
            except ValueError as error:
                self.diagnostics.error(str(error))

        return call

    def configure_for(self, stamp: int) -> None:
        """Put in force the newest configuration whose activation is not after ``stamp`` (ns)."""
        due = [entry for entry in self._pending if entry[0] <= stamp]
        if due:
            self._pending = [entry for entry in self._pending if entry[0] > stamp]
            _, self.version, parsed = due[-1]
            self.apply(parsed)

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._pending, self._subscriptions_made, self.version = [], [], 0
        self.parsed = {}
        try:
            self.contract = load_contract(self.parameter("robot"))
            self.bundle = Bundle(
                *(self.parameter(name) for name in ("bundle", "threads", "provider"))
            )
            self.bundle.check_fits(self.contract)
            self.setup()
            self.diagnostics.values["provider"] = self.bundle.provider
            if self.takes_configurations:
                self._ack = self.publisher(String, "configuration_ack", LATCHED)
                subscription = self.create_subscription(
                    String, "configuration", self.guarded(self._on_configuration), LATCHED
                )
                self._made.append((self.destroy_subscription, subscription))
        except (ValueError, OSError) as error:
            self.diagnostics.failed(f"cannot be configured: {error}")
            self._clean_up()
            return TransitionCallbackReturn.FAILURE
        self.diagnostics.ok("inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.connect()
        self.diagnostics.ok("active")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self.diagnostics.ok("inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._clean_up()
        self.diagnostics.ok("unconfigured")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def _disconnect(self) -> None:
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    def _clean_up(self) -> None:
        for destroy, made in self._made:
            destroy(made)
        self._made = []

    def _on_configuration(self, message: String) -> None:
        configuration = Configuration.from_json(message.data)
        error = ""
        try:
            if configuration.bundle != self.bundle.id:
                raise ValueError(
                    f"it is for bundle {configuration.bundle!r}, expected {self.bundle.id!r}"
                )
            parsed = self.parse(configuration.sections)
            self._pending.append((configuration.activation, configuration.version, parsed))
            kept = list(self.parsed.items())[1 - KEPT_CONFIGURATIONS :]
            self.parsed = {**dict(kept), configuration.version: parsed}
        except ValueError as problem:
            error = f"configuration {configuration.version} refused: {problem}"
            self.diagnostics.error(error)
        reply = {"node": self.get_name(), "version": configuration.version, "error": error}
        self._ack.publish(String(data=json.dumps(reply)))
