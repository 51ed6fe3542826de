"""What all our nodes share: lifecycle with errors that are told, configuration, diagnostics."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from jepa_robot.models import AUTO_PROVIDER, Bundle
from jepa_robot.modules.configurator import Configuration
from jepa_robot.nodes.messages import LATCHED
from jepa_robot.nodes.runtime import Diagnostics
from jepa_robot.robot.contract import RobotContract, load_contract

KEPT_CONFIGURATIONS = 4


@dataclass
class _Taken:
    """A configuration that was found good: in force from ``activation`` (ns) on, once that is told.

    ``built``: modules of another bundle than the one before.
    """

    version: int
    activation: int
    bundle: Bundle
    built: Any
    parsed: Any


class AgentNode(LifecycleNode):
    """A lifecycle node around one module.

    A subclass makes what outlives bundles in ``setup``, its modules in ``build``, subscribes in
    ``connect`` through :meth:`subscribe`, and takes up configurations in ``parse`` and ``apply``.

    A configuration may be of another bundle with the same latent space: its modules are built in a
    thread, beside what is in force, and take over with the first observation that it is for.
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
        self._taken: list[_Taken] = []  # not in force yet
        self._taking = threading.Lock()
        self._seen = -1  # ns, stamp of what was last configured for
        self._before: tuple[int, str] | None = None  # until when another bundle was in force
        self.parsed: dict[int, Any] = {}  # the newest configurations, by version
        self._made: list[tuple[Callable, Any]] = []
        self._subscriptions_made: list[Any] = []

    # To be provided by a subclass.

    def setup(self) -> None:
        """Make the publishers. Errors make the transition fail."""
        raise NotImplementedError

    def build(self, bundle: Bundle) -> Any:
        """Modules for a bundle; called in any thread. Errors refuse the bundle."""

    def adopt(self, built: Any) -> None:
        """Use modules that ``build`` made, in the place of any before."""

    def connect(self) -> None:
        """Subscribe; called on activation."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Stop what ``connect`` started, if it did; subscriptions end by themselves."""

    def parse(self, sections: dict, bundle: Bundle) -> Any:
        """Check the sections of a configuration for a bundle; errors refuse it."""

    def prepare(self, built: Any, parsed: Any) -> None:
        """What can be done beforehand for another bundle's modules; called in any thread."""

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
        self._seen = stamp
        if not self._taken:
            return
        with self._taking:
            due = [taken for taken in self._taken if 0 <= taken.activation <= stamp]
            if not due:
                return
            newest = max(due, key=lambda taken: taken.version)
            self._taken = [taken for taken in self._taken if taken.version > newest.version]
        self.version = newest.version
        if newest.bundle is not self.bundle:
            self._before = (newest.activation, self.bundle.id)
            self.bundle = newest.bundle
            self.adopt(newest.built)
            self.diagnostics.values["bundle"] = self.bundle.id
        self.apply(newest.parsed)

    def frame_of(self, stamp: int) -> str:
        """The id of the bundle that what descends from an observation at ``stamp`` (ns) is of."""
        if self._before is not None and stamp < self._before[0]:
            return self._before[1]
        return self.bundle.id

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._taken, self._subscriptions_made, self.version, self._seen = [], [], 0, -1
        self.parsed, self._before = {}, None
        try:
            self.contract = load_contract(self.parameter("robot"))
            self.bundle = Bundle(
                *(self.parameter(name) for name in ("bundle", "threads", "provider"))
            )
            self.bundle.check_fits(self.contract)
            self.setup()
            self.adopt(self.build(self.bundle))
            self.diagnostics.values |= {"provider": self.bundle.provider, "bundle": self.bundle.id}
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

    def destroy_node(self) -> None:
        self.disconnect()
        super().destroy_node()

    def _disconnect(self) -> None:
        self.disconnect()
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    def _clean_up(self) -> None:
        for destroy, made in self._made:
            destroy(made)
        self._made = []

    def _on_configuration(self, message: String) -> None:
        configuration = Configuration.from_json(message.data)
        with self._taking:
            for taken in self._taken:
                if taken.version == configuration.version:  # its modules are there: now it is told
                    taken.activation = configuration.activation
                    self._note_late(configuration)
                    return
            known = [(self.bundle, None), *((taken.bundle, taken.built) for taken in self._taken)]
        here = next((one for one in known if one[0].id == configuration.bundle), None)
        if (here and here[0] is self.bundle) or not configuration.path:
            self._take(configuration, here)
        else:
            threading.Thread(target=self._take, args=(configuration, here), daemon=True).start()

    def _take(self, configuration: Configuration, here: tuple[Bundle, Any] | None) -> None:
        """Check a configuration, and say whether it will be taken up.

        Args:
            configuration: what came.
            here: its bundle with modules of it, where that was loaded.
        """
        error = ""
        try:
            bundle, built = here or self._load(configuration)
            parsed = self.parse(configuration.sections, bundle)
            self.prepare(built, parsed)
            taken = _Taken(configuration.version, configuration.activation, bundle, built, parsed)
            with self._taking:
                self._taken.append(taken)
                self._note_late(configuration)
                kept = list(self.parsed.items())[1 - KEPT_CONFIGURATIONS :]
                self.parsed = {**dict(kept), configuration.version: parsed}
        except (ValueError, OSError) as problem:
            error = f"configuration {configuration.version} refused: {problem}"
            self.diagnostics.error(error)
        reply = {"node": self.get_name(), "version": configuration.version, "error": error}
        self._ack.publish(String(data=json.dumps(reply)))

    def _note_late(self, configuration: Configuration) -> None:
        """Count what came after an observation that it was for: others may have taken it up."""
        if 0 <= configuration.activation <= self._seen:
            values = self.diagnostics.values
            values["configurations_late"] = values.get("configurations_late", 0) + 1

    def _load(self, configuration: Configuration) -> tuple[Bundle, Any]:
        """Another bundle, and modules of it.

        Raises:
            ValueError, OSError: it is not the one that is meant, does not fit, or cannot be used.
        """
        if not configuration.path:
            raise ValueError(
                f"it is for bundle {configuration.bundle!r}, expected {self.bundle.id!r}"
            )
        loading = (self.parameter(name) for name in ("threads", "provider"))
        bundle = Bundle(configuration.path, *loading)
        if bundle.id != configuration.bundle:
            raise ValueError(
                f"{configuration.path} is bundle {bundle.id!r}, expected {configuration.bundle!r}"
            )
        bundle.check_fits(self.contract)
        bundle.check_space(self.bundle)
        return bundle, self.build(bundle)
