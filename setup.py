"""An ament_python package that is also an ordinary pip package."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "jepa_robot"
ROOT = Path(__file__).parent
ROS_WHEELS = [
    "ros-rclpy[fastrtps]>=7.1.6",
    "ros-diagnostic-msgs",
    "ros-geometry-msgs",
    "ros-lifecycle-msgs",
    "ros-rosgraph-msgs",
    "ros-sensor-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-trajectory-msgs",
]
IMPORT = ["av", "mcap", "pyarrow", "rosbags"]
TRAIN = [
    "gymnasium>=1.0",
    "joblib",
    "lightning>=2.4",
    "matplotlib",
    "onnx",
    "tensorboard",
    "torch>=2.4",
]


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """The files below a folder, for ``share/jepa_robot``."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            relative = path.relative_to(ROOT)
            found.setdefault(f"share/{PACKAGE}/{relative.parent}", []).append(str(relative))
    return sorted(found.items())


packages = find_packages(include=[PACKAGE, f"{PACKAGE}.*"])

setup(
    name=PACKAGE,
    version="0.1.0",
    description="A robot agent that plans in the latent space of a learned JEPA world model",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="jepa_robot maintainers",
    maintainer_email="maintainers@jepa-robot.example.org",
    packages=[*packages, "jepa_robot_sim"],
    package_dir={"jepa_robot_sim": "sim"},
    package_data={PACKAGE: ["modules/intrinsic.onnx"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared("config"),
        *shared("launch"),
        *shared("models"),
    ],
    python_requires=">=3.10",
    install_requires=[
        "h5py",
        "numpy",
        "opencv-python",
        "onnxruntime-gpu; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "onnxruntime; platform_system != 'Linux' or platform_machine != 'x86_64'",
        "pin",
        "pybullet",
        "pyyaml",
        "rich",
        "ruckig>=0.14",
        "typer>=0.9",
        "usearch>=2.19,<2.26",  # imported before ONNX Runtime, 2.26 takes the process down
    ],
    extras_require={
        "ros": ROS_WHEELS,
        "train": TRAIN,
        "import": IMPORT,
        "viewer": ["rerun-sdk"],
        "test": ["pytest", "pytest-xdist"],
        "gymnasium": ["gymnasium>=1.0"],
        "dev": [*TRAIN, *IMPORT, "pytest", "pytest-xdist", "pytest-rerunfailures", "ruff"],
    },
    entry_points={
        "console_scripts": [
            "jepa-robot = jepa_robot.cli.main:main",
            *(
                f"{name}_node = jepa_robot.nodes.{name}:run"
                for name in (
                    "actor",
                    "configurator",
                    "cost",
                    "memory",
                    "perception",
                    "safety",
                    "world_model",
                )
            ),
            "agent_node = jepa_robot.nodes.agent:run",
            "simulator_node = jepa_robot_sim.node:run",
        ],
    },
    zip_safe=False,
)
