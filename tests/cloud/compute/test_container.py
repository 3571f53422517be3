"""How a workload becomes an argument list for Docker or Podman: values stay out of it, nothing goes through a shell."""

from pathlib import Path

from leptonai.cloud.compute.container import oom_argv, remove_argv, run_argv
from leptonai.cloud.compute.driver import Mount, Resources, Workload

WORKLOAD = Workload(
    "j1-w0", "default", "job/j1", ("bash", "-c", "echo $(hostname); rm -rf /"), image="python:3.12",
    env={"TOKEN": "very-secret", "A": "1"}, resources=Resources(1.5, 1 << 30, 2), ports=1, container_ports=(8000,),
    mounts=(Mount(Path("/srv/files"), "/mnt/data", read_only=True),),
)  # fmt: skip


def test_docker():
    argv = run_argv("/usr/bin/docker", WORKLOAD, Path("/work"), (20001,), (0, 1))
    line = " ".join(argv)
    assert argv[:4] == ["/usr/bin/docker", "run", "--name", "lepton-j1-w0"]
    assert argv[-4:] == ["python:3.12", "bash", "-c", "echo $(hostname); rm -rf /"]
    assert "very-secret" not in line and "--env TOKEN" in line
    assert "--cpus 1.5" in line and f"--memory {1 << 30}" in line and "--publish 127.0.0.1:20001:8000" in line
    assert "--volume /srv/files:/mnt/data:ro" in line and '--gpus "device=0,1"' in line
    assert "--privileged" not in line and "no-new-privileges" in line


def test_podman_names_gpus_its_own_way():
    argv = run_argv("/usr/bin/podman", WORKLOAD, Path("/work"), (20001,), (1,))
    assert argv[argv.index("--device") + 1] == "nvidia.com/gpu=1"


def test_what_is_asked_after_the_end():
    assert oom_argv("docker", "x")[-1] == "lepton-x" and "OOMKilled" in oom_argv("docker", "x")[-2]
    assert remove_argv("docker", "x") == ["docker", "rm", "--force", "lepton-x"]
