"""`tpu_vm.sh` against a gcloud that notes what it is told, and one that is preempted."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tiers import thorough_except

SCRIPT = "launch/tpu_vm.sh"
SCRIPTS = Path(__file__).parent.parent.parent / "launch"
CONFIG = "configs/imagen/base_64.py"
BUCKET = "gs://{bucket}/base"
POD = ("--name=pod", "--zone=us-central2-b", "--accelerator=v4-32", "--poll_seconds=0")
TRAINING = (f"--workdir={BUCKET}", "--config=configs/imagen/base_64.py:2b")
PLACE = ["--zone=us-central2-b"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
DESCRIBE = [*QUEUED, "describe", "pod", *PLACE, "--format=value(state.state)"]
CREATE = [
    *QUEUED,
    "create",
    "pod",
    *PLACE,
    "--accelerator-type=v4-32",
    "--runtime-version=tpu-ubuntu2204-base",
    "--node-id=pod",
]
DELETE = [*QUEUED, "delete", "pod", *PLACE, "--force", "--quiet"]
ALL = ["--node=all", "--worker=all"]
COPY = [*QUEUED, "scp", "runs/launch/imagen-jax.tar.gz", "pod:imagen-jax.tar.gz", *PLACE, *ALL]


def ssh(command: str) -> list[str]:
    return [*QUEUED, "ssh", "pod", *PLACE, *ALL, f"--command={command}"]


INSTALL = ssh(
    "mkdir -p imagen-jax && find imagen-jax -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs -exec rm -rf {} + "
    "&& tar -xzf imagen-jax.tar.gz -C imagen-jax && bash imagen-jax/launch/tpu_worker.sh install"
)
START = ssh(
    "bash imagen-jax/launch/tpu_worker.sh start --config=configs/imagen/base_64.py:2b " + f"'--workdir={BUCKET}'"
)
STOP = ssh("bash imagen-jax/launch/tpu_worker.sh stop")
STATUS = ssh(
    "if [ -e imagen-jax/launch/tpu_worker.sh ]; then bash imagen-jax/launch/tpu_worker.sh status; "
    "else echo imagen-jax: absent on $(hostname); fi"
)


@pytest.fixture
def checkout(tmp_path):
    """A small git checkout with the scripts and a config in it."""
    folder = tmp_path / "checkout"
    shutil.copytree(SCRIPTS, folder / "launch", ignore=shutil.ignore_patterns("reports"))
    (folder / CONFIG).parent.mkdir(parents=True)
    shutil.copy(SCRIPTS.parent / CONFIG, folder / CONFIG)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (folder / "private.txt").write_text("not tracked")
    (folder / ".gitignore").write_text("runs/\n")
    subprocess.run([*git, "add", "launch", "configs", ".gitignore"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "first"], check=True)
    return folder


def test_create_asks_and_waits(cloud):
    cloud.set(workers=4, after_create=["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    ended = cloud.run(SCRIPT, "create", *POD)
    assert ended.returncode == 0
    assert cloud.calls() == [DESCRIBE, CREATE, *[DESCRIBE] * 4]
    assert re.findall(r"pod is (\w+)", ended.stdout) == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [
        ("v4-512", "tpu-ubuntu2204-base"),
        ("v5p-512", "v2-alpha-tpuv5"),
        ("v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v6e-256", "v2-alpha-tpuv6e"),
    ],
)
def test_a_generation_has_its_software_version(cloud, accelerator, version):
    assert cloud.run(SCRIPT, "create", *POD, f"--accelerator={accelerator}").returncode == 0
    flags = [f"--accelerator-type={accelerator}", f"--runtime-version={version}", "--node-id=pod"]
    assert cloud.calls()[1] == [*CREATE[:7], *flags]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--spot"], [*CREATE, "--spot"]),
        (["--reserved"], [*CREATE, "--reserved"]),
        (["--node_count=2"], [*CREATE[:-1], "--node-count=2", "--node-prefix=pod"]),
        (["--runtime_version=mine"], [*CREATE[:-2], "--runtime-version=mine", "--node-id=pod"]),
        (["--create_flag=--network=a b", "--create_flag=--x"], [*CREATE, "--network=a b", "--x"]),
        (["--project=p"], [*CREATE[:7], "--project=p", *CREATE[7:]]),
    ],
)
def test_create_hands_its_flags_to_gcloud(cloud, flags, expected):
    assert cloud.run(SCRIPT, "create", *POD, *flags).returncode == 0
    assert cloud.calls()[1] == expected


def test_a_pod_that_is_there_is_reported_and_not_asked_for_again(cloud):
    cloud.set(state="ACTIVE")
    ended = cloud.run(SCRIPT, "create", *POD)
    assert ended.returncode == 0
    assert "pod exists already and is ACTIVE" in ended.stdout
    assert cloud.calls() == [DESCRIBE, DESCRIBE]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", "SUSPENDING", "DELETING"])
def test_a_state_from_which_no_pod_comes_is_a_sentence(cloud, state):
    cloud.set(after_create=["PROVISIONING", state])
    ended = cloud.run(SCRIPT, "create", *POD)
    assert ended.returncode == 2
    assert f"pod is {state} " in ended.stderr


def test_what_gcloud_refuses_is_shown(cloud):
    cloud.set(fail={"create": "RESOURCE_EXHAUSTED: quota"})
    ended = cloud.run(SCRIPT, "create", *POD)
    assert ended.returncode == 2
    assert "RESOURCE_EXHAUSTED" in ended.stderr


def test_without_permission_nothing_is_created(cloud):
    cloud.set(fail={"describe": "PERMISSION_DENIED: who are you"})
    ended = cloud.run(SCRIPT, "create", *POD)
    assert ended.returncode == 2
    assert "PERMISSION_DENIED" in ended.stderr
    assert cloud.calls() == [DESCRIBE]


def test_one_failed_look_does_not_end_the_wait(cloud):
    cloud.set(state="PROVISIONING", states=["PROVISIONING", "UNREACHABLE", "ACTIVE"])
    assert cloud.run(SCRIPT, "create", *POD).returncode == 0


def test_install_copies_the_last_commit_and_sets_up(cloud, checkout):
    cloud.set(state="ACTIVE", workers=4)
    ended = cloud.run(SCRIPT, "install", *POD, checkout=checkout)
    assert ended.returncode == 0, ended.stderr
    assert cloud.calls() == [COPY, INSTALL]
    packed = subprocess.run(
        ["tar", "-tzf", str(checkout / "runs/launch/imagen-jax.tar.gz")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "launch/tpu_worker.sh" in packed
    assert "private.txt" not in packed


def test_install_says_that_changes_stay_here(cloud, checkout):
    cloud.set(state="ACTIVE", workers=4)
    with (checkout / "launch" / "test.sh").open("a") as file:
        file.write("# changed\n")
    assert "warning: " in cloud.run(SCRIPT, "install", *POD, checkout=checkout).stdout


def test_a_worker_that_is_silent_is_missed(cloud, checkout):
    cloud.set(state="ACTIVE", workers=4, silent=1)
    ended = cloud.run(SCRIPT, "install", *POD, checkout=checkout)
    assert ended.returncode == 2
    assert "3 of the 4 workers answered 'installed'" in ended.stderr


def test_start_hands_everything_to_the_training(cloud):
    cloud.set(state="ACTIVE", workers=8, worker="idle")
    prompt = "--config.preview.prompts=('a cat', \"it's\")"
    ended = cloud.run(SCRIPT, "start", *POD, "--node_count=2", *TRAINING, "--", "--heartbeat_seconds=60", prompt)
    assert ended.returncode == 0, ended.stderr
    (call,) = cloud.calls()
    assert call[: len(START) - 1] == START[:-1]
    # As the shell of the worker reads it.
    words = shlex.split(call[-1].removeprefix("--command="))
    assert words == [
        *["bash", "imagen-jax/launch/tpu_worker.sh", "start"],
        "--config=configs/imagen/base_64.py:2b",
        f"--workdir={BUCKET}",
        "--heartbeat_seconds=60",
        prompt,
    ]


def test_the_log_of_one_worker(cloud):
    cloud.set(state="ACTIVE")
    ended = cloud.run(SCRIPT, "logs", *POD, "--node=1", "--worker=3", "--ssh_flag=--tunnel-through-iap")
    assert ended.stdout == "step 100  loss 0.1\n"
    command = "--command=tail -n 100 -F imagen-jax/runs/launch/train.log"
    assert cloud.calls() == [[*QUEUED, "ssh", "pod", *PLACE, "--tunnel-through-iap", "--node=1", "--worker=3", command]]


def test_status_and_stop(cloud):
    cloud.set(state="ACTIVE", workers=4, worker="running")
    assert "pod is ACTIVE\nimagen-jax: running on worker-0\n" in cloud.run(SCRIPT, "status", *POD).stdout
    assert cloud.run(SCRIPT, "stop", *POD).returncode == 0
    assert cloud.calls() == [DESCRIBE, STATUS, STOP]


def test_a_state_that_gcloud_does_not_tell_is_an_error_with_its_reason(cloud):
    cloud.set(state="UNREACHABLE")
    ended = cloud.run(SCRIPT, "status", *POD)
    assert ended.returncode == 2
    assert "the network is down" in ended.stderr
    assert cloud.calls() == [DESCRIBE]


def test_what_is_said_can_be_kept_in_a_file(cloud):
    cloud.set(state="ACTIVE", workers=2, worker="running")
    # As a shell opens it for `>`: whoever opened it again would write over its beginning.
    with (cloud.folder / "said").open("w") as said:
        command = ["bash", "launch/tpu_vm.sh", "status", *POD]
        subprocess.run(command, cwd=SCRIPTS.parent, env=cloud.environment, stdout=said, check=True)
    assert (cloud.folder / "said").read_text().splitlines() == [
        "==> pod is ACTIVE",
        "imagen-jax: running on worker-0",
        "imagen-jax: running on worker-1",
    ]


def test_delete_twice(cloud):
    cloud.set(state="ACTIVE")
    assert cloud.run(SCRIPT, "delete", *POD[:2]).returncode == 0
    again = cloud.run(SCRIPT, "delete", *POD[:2])
    assert again.returncode == 0 and "nothing to delete" in again.stdout
    assert cloud.calls() == [DESCRIBE, DELETE, DESCRIBE]


def test_watch_brings_up_what_is_not_there_and_ends_with_the_training(cloud, checkout):
    cloud.set(workers=4, events=["", "ended 0"])
    ended = cloud.run(SCRIPT, "watch", *POD, *TRAINING, checkout=checkout)
    assert ended.returncode == 0, ended.stderr
    assert cloud.calls() == [
        *[DESCRIBE, CREATE],
        *[DESCRIBE, STATUS, COPY, INSTALL, START],
        *[DESCRIBE, STATUS] * 2,
    ]
    assert "The training is done. Now delete the pod" in ended.stdout


def test_watch_replaces_a_pod_that_was_preempted(cloud, checkout):
    cloud.set(state="ACTIVE", workers=4, worker="running", events=["", "preempted", "", "ended 0"])
    ended = cloud.run(SCRIPT, "watch", *POD, *TRAINING, "--spot", checkout=checkout)
    assert ended.returncode == 0, ended.stderr
    assert cloud.calls() == [
        *[DESCRIBE, STATUS] * 2,
        *[DESCRIBE, DESCRIBE],  # SUSPENDING, SUSPENDED
        *[DESCRIBE, DELETE],
        *[DESCRIBE, [*CREATE, "--spot"]],
        *[DESCRIBE, STATUS, COPY, INSTALL, START],
        *[DESCRIBE, STATUS] * 2,
    ]
    assert re.findall(r"pod is (\w+)", ended.stdout) == ["ACTIVE", "SUSPENDING", "SUSPENDED", "NONE", "ACTIVE"]


def test_watch_starts_again_after_a_reboot(cloud, checkout):
    cloud.set(state="ACTIVE", workers=4, worker="running", events=["rebooted", "ended 0"])
    assert cloud.run(SCRIPT, "watch", *POD, *TRAINING, checkout=checkout).returncode == 0
    assert cloud.calls() == [DESCRIBE, STATUS, STOP, START, DESCRIBE, STATUS]


@pytest.mark.parametrize("status", [75, 143])
def test_watch_starts_again_what_was_told_to_leave(cloud, checkout, status):
    cloud.set(state="ACTIVE", workers=4, worker=f"ended {status}", events=["ended 0"])
    assert cloud.run(SCRIPT, "watch", *POD, *TRAINING, checkout=checkout).returncode == 0
    assert cloud.calls() == [DESCRIBE, STATUS, STOP, START, DESCRIBE, STATUS]


def test_watch_survives_a_preemption_during_the_installation(cloud, checkout):
    cloud.set(workers=4, events=["ended 0"], fail={"scp": "connection lost"})
    ended = cloud.run(SCRIPT, "watch", *POD, *TRAINING, checkout=checkout)
    assert ended.returncode == 0, ended.stderr
    assert cloud.calls() == [
        *[DESCRIBE, CREATE],
        *[DESCRIBE, STATUS, COPY],
        *[DESCRIBE, STATUS, COPY, INSTALL, START],
        *[DESCRIBE, STATUS],
    ]


def test_watch_ends_with_a_training_that_gave_up(cloud):
    cloud.set(state="ACTIVE", workers=4, worker="ended 2")
    ended = cloud.run(SCRIPT, "watch", *POD, *TRAINING)
    assert ended.returncode == 2
    assert "status 2 " in ended.stderr


def test_watch_does_not_bring_back_what_someone_deleted(cloud):
    cloud.set(state="ACTIVE", states=["ACTIVE", "NONE"], workers=4, worker="running")
    ended = cloud.run(SCRIPT, "watch", *POD, *TRAINING)
    assert ended.returncode == 2
    assert "pod was deleted" in ended.stderr
    assert CREATE not in cloud.calls()


def test_watch_ends_where_gcloud_keeps_failing(cloud):
    cloud.set(state="UNREACHABLE")
    ended = cloud.run(SCRIPT, "watch", *POD, *TRAINING)
    assert ended.returncode == 2
    assert "error: 10 " in ended.stderr and "the network is down" in ended.stderr
    assert cloud.calls() == [DESCRIBE] * 10


@pytest.mark.parametrize("command", ["create", "install", "start", "status", "stop", "logs", "delete"])
def test_a_dry_run_prints_what_a_run_does_and_does_nothing(cloud, checkout, command):
    flags = [*POD, *TRAINING, "--spot", "--", "--config.preview.prompts=('a cat', \"it's\")"]
    dry = cloud.run(SCRIPT, command, "--dry_run", *flags, checkout=checkout)
    assert dry.returncode == 0 and dry.stderr == ""
    assert cloud.calls() == []
    assert not (checkout / "runs").exists()
    cloud.set(state="NONE" if command == "create" else "ACTIVE", workers=4)
    assert cloud.run(SCRIPT, command, *flags, checkout=checkout).returncode == 0
    printed = [shlex.split(line) for line in dry.stdout.splitlines() if not line.startswith("# ")]
    assert [words for words in printed if words[0] == "gcloud"] == cloud.calls()


def test_a_dry_run_of_watch_prints_the_way_to_a_running_training(cloud):
    ended = cloud.run(SCRIPT, "watch", "--dry_run", *POD, *TRAINING)
    printed = [shlex.split(line) for line in ended.stdout.splitlines() if not line.startswith("# ")]
    pack = ["git", "archive", "--format=tar.gz", "--output=runs/launch/imagen-jax.tar.gz", "HEAD"]
    assert printed == [DESCRIBE, CREATE, DESCRIBE, ["mkdir", "-p", "runs/launch"], pack, COPY, INSTALL, START]
    assert cloud.calls() == []


def test_what_a_dry_run_prints_can_be_pasted(cloud, checkout):
    prompts = "--config.preview.prompts=('a cat', \"it's\")"
    dry = cloud.run(SCRIPT, "watch", "--dry_run", *POD, *TRAINING, "--", prompts, checkout=checkout)
    cloud.set(workers=4)
    subprocess.run(["bash"], input=dry.stdout, env=cloud.environment, cwd=checkout, text=True, capture_output=True)
    *before, start = cloud.calls()
    assert before == [DESCRIBE, CREATE, DESCRIBE, COPY, INSTALL]
    assert shlex.split(start[-1])[-1] == prompts


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sit"], "'sit'"),
        (["create", "--zone=z"], "--name is missing: create needs it"),
        (["create", "--name=pod", "--zone=z"], "--accelerator is missing"),
        (["create", *POD, "--accelerator=a100"], "--accelerator=a100"),
        (["create", *POD, "--accelerator=v4-12"], "--accelerator=v4-12"),
        (["create", *POD, "--accelerator=v6e-24"], "1, 4, 8, 16, 32"),
        (["create", *POD, "--node_count=0"], "--node_count=0"),
        (["create", *POD, "--spot", "--reserved"], "--spot and --reserved"),
        (["create", *POD, "--name=My_Pod"], "--name=My_Pod"),
        (["create", *POD, "--acelerator=v4-8"], "--acelerator=v4-8"),
        (["start", *POD, "--workdir=runs/x", "--config=c.py"], "--workdir=runs/x"),
        (["start", *POD, f"--workdir={BUCKET}"], "--config is missing: start needs it"),
    ],
)
def test_a_mistake_is_a_sentence(cloud, arguments, sentence):
    ended = cloud.run(SCRIPT, *arguments)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert cloud.calls() == []


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
@pytest.mark.parametrize("command", ["create", "install", "start", "watch"])
@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("configs/imagen/base.py:2b", "configs/imagen/base.py"),
        ("x:2b", "configs/x.py"),
        ("configs/mine.py:2b", "commit"),
        ("/configs/imagen/base_64.py", "within the checkout"),
        ("configs/imagen/base_64.py:3b", "2b, 1b, 500m, 300m"),
        ("imagen/base_64:3b,smoke", "2b, 1b, 500m, 300m"),
    ],
)
def test_a_config_that_the_workers_would_not_have_is_refused_first(cloud, checkout, command, config, told, dry):
    (checkout / "configs" / "mine.py").write_text("def get_config(variant): ...")
    flags = [*POD, f"--workdir={BUCKET}", f"--config={config}", *dry]
    ended = cloud.run(SCRIPT, command, *flags, checkout=checkout)
    assert ended.returncode == 2 and ended.stdout == ""
    assert told in ended.stderr
    assert cloud.calls() == []


@pytest.mark.parametrize(
    "config", [CONFIG, f"./{CONFIG}:1b", f"{CONFIG}:2b,smoke", "imagen/base_64:500m", "own.py:any"]
)
def test_a_config_that_the_commit_has_is_accepted(cloud, checkout, config):
    (checkout / "own.py").write_text("def get_config(variant): ...")
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "own.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "second"], check=True)
    flags = [*POD, f"--workdir={BUCKET}", f"--config={config}", "--dry_run"]
    ended = cloud.run(SCRIPT, "start", *flags, checkout=checkout)
    assert ended.returncode == 0, ended.stderr


def test_without_git_the_files_of_the_folder_count(cloud, checkout):
    shutil.rmtree(checkout / ".git")
    flags = [*POD, f"--workdir={BUCKET}", "--dry_run"]
    assert cloud.run(SCRIPT, "start", *flags, f"--config={CONFIG}:2b", checkout=checkout).returncode == 0
    for wrong in (f"{CONFIG}:3b", "configs/other.py"):
        assert cloud.run(SCRIPT, "start", *flags, f"--config={wrong}", checkout=checkout).returncode == 2


def test_every_bundled_variant_is_accepted(cloud):
    for name, variants in {
        "quickstart": ("base", "super_resolution"),
        "own_images": ("base", "super_resolution"),
        "openmoji": ("base", "super_res_256", "super_res_1024"),
        "openmoji_small": ("base", "super_resolution"),
        "imagen/super_res_256": ("as_printed", "size_matched"),
        "imagen/super_res_1024": ("as_printed", "size_matched"),
    }.items():
        for variant in variants:
            flags = [*POD, f"--workdir={BUCKET}", f"--config=configs/{name}.py:{variant}", "--dry_run"]
            ended = cloud.run(SCRIPT, "start", *flags)
            assert ended.returncode == 0, ended.stderr


def test_help_is_the_head_of_the_script(cloud):
    ended = cloud.run(SCRIPT, "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith("Trains on a Cloud TPU pod") and "--dry_run" in ended.stdout
    assert "set -euo" not in ended.stdout


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="the Google Cloud CLI is not installed")
@pytest.mark.parametrize("verb", thorough_except(["create"], ["create", "describe", "delete", "scp", "ssh"]))
def test_the_real_gcloud_has_every_flag_that_we_give_it(cloud, verb):
    given = set()
    for command, *flags in (["watch", "--spot"], ["create", "--reserved", "--node_count=2"], ["delete"]):
        dry = cloud.run(SCRIPT, command, "--dry_run", *POD, *TRAINING, "--project=p", *flags)
        for line in dry.stdout.splitlines():
            words = shlex.split(line, comments=True)
            if words[:5] == [*QUEUED, verb]:
                given |= {word.split("=")[0] for word in words if word.startswith("--")}
    described = subprocess.run([*QUEUED, verb, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    plain = re.sub("\x1b\\[[0-9;]*m|.\b", "", described)
    assert {"--zone", "--project"} <= given
    assert [flag for flag in sorted(given) if not re.search(rf"{flag}(?![-\w])", plain)] == []
