"""`gke/train.sh`: the manifest as a YAML parser reads it, and what kubectl is told."""

import math
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

SCRIPT = "launch/gke/train.sh"
CHECKOUT = Path(__file__).parent.parent.parent
BUCKET = "gs://{bucket}/base"
JOB = (
    "--name=base",
    "--accelerator=v4-512",
    "--topology=4x8x8",
    "--image=registry/imagen:1",
    f"--workdir={BUCKET}",
    "--config=configs/imagen/base_64.py:2b",
)


def render(cloud, *flags):
    ended = cloud.run(SCRIPT, "render", *JOB, *flags)
    assert ended.returncode == 0, ended.stderr
    return yaml.safe_load(ended.stdout)


def job_of(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job


def pod_of(manifest):
    return job_of(manifest)["template"]["spec"]["template"]["spec"]


def container_of(manifest):
    (container,) = pod_of(manifest)["containers"]
    return container


# Hosts and chips as Google's tables of TPUs on GKE list them.
@pytest.mark.parametrize(
    ("accelerator", "topology", "label", "hosts", "chips_per_host"),
    [
        ("v4-8", "2x2x1", "tpu-v4-podslice", 1, 4),
        ("v4-256", "4x4x8", "tpu-v4-podslice", 32, 4),
        ("v4-512", "4x8x8", "tpu-v4-podslice", 64, 4),
        ("v5p-512", "4x8x8", "tpu-v5p-slice", 64, 4),
        ("v5p-4096", "8x16x16", "tpu-v5p-slice", 512, 4),
        ("v5litepod-4", "2x2", "tpu-v5-lite-podslice", 1, 4),
        ("v5litepod-8", "2x4", "tpu-v5-lite-podslice", 1, 8),
        ("v5litepod-256", "16x16", "tpu-v5-lite-podslice", 64, 4),
        ("v6e-1", "1x1", "tpu-v6e-slice", 1, 1),
        ("v6e-16", "4x4", "tpu-v6e-slice", 4, 4),
        ("v6e-256", "16x16", "tpu-v6e-slice", 64, 4),
    ],
)
def test_hosts_and_chips(cloud, accelerator, topology, label, hosts, chips_per_host):
    manifest = render(cloud, f"--accelerator={accelerator}", f"--topology={topology}")
    job = job_of(manifest)["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (hosts, hosts)
    assert container_of(manifest)["resources"] == {"limits": {"google.com/tpu": chips_per_host}}
    assert hosts * chips_per_host == math.prod(map(int, topology.split("x")))
    assert pod_of(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_each_slice_has_a_node_pool_of_its_own(cloud):
    manifest = render(cloud, "--slices=3")
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"] == {
        "name": "base",
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
    }
    assert job_of(manifest)["replicas"] == 3


def test_all_restart_together_but_a_mistake_ends_the_job(cloud):
    manifest = render(cloud, "--max_restarts=7")
    assert manifest["spec"]["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    job = job_of(manifest)["template"]["spec"]
    # One lost host fails its job, whose failure restarts the set.
    assert job["backoffLimit"] == 0
    assert pod_of(manifest)["restartPolicy"] == "Never"
    mistake = {"containerName": "train", "operator": "In", "values": [2, 130]}
    assert job["podFailurePolicy"] == {"rules": [{"action": "FailJob", "onExitCodes": mistake}]}


def test_the_command_survives_yaml_and_kubernetes(cloud):
    words = ["--config.preview.prompts=('a cat', \"it's\")", "--note=back\\slash", "--two=lines\nof", "--not=$(HOME)"]
    command = container_of(render(cloud, "--", *words))["command"]
    assert command[:4] == [".venv/bin/python", "-m", "imagen_jax.train", "--distributed"]
    assert command[4:6] == ["--config=configs/imagen/base_64.py:2b", f"--workdir={BUCKET}"]
    # Kubernetes reads $$( as $( without a variable.
    assert command[6:] == [*words[:3], "--not=$$(HOME)"]


def test_the_environment_is_the_advised_one(cloud):
    names = ("LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "PYTHONUNBUFFERED")
    advised = subprocess.run(
        ["bash", "-c", "source launch/tpu_environment.sh; printf '%s\\n' \"${environment_names[@]}\"; env"],
        cwd=CHECKOUT,
        env=cloud.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    environment = {entry["name"]: entry["value"] for entry in container_of(render(cloud))["env"]}
    assert tuple(environment) == names == tuple(advised.splitlines()[:3])
    assert all(f"\n{name}={value}\n" in advised for name, value in environment.items())


def test_what_nodes_and_rights_the_pods_ask_for(cloud):
    pod = pod_of(render(cloud, "--spot", "--service_account=trainer"))
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"] == [
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert pod["serviceAccountName"] == "trainer"
    reserved = pod_of(render(cloud, "--reservation=mine"))
    assert reserved["nodeSelector"]["cloud.google.com/reservation-name"] == "mine"
    assert "tolerations" not in reserved and "serviceAccountName" not in reserved


@pytest.mark.parametrize(
    ("flags", "tier"),
    [
        ([], []),
        (["--spot"], ["--spot"]),
        (["--reservation=r"], ["--reservation-affinity=specific", "--reservation=r"]),
    ],
)
def test_each_slice_gets_a_node_pool(cloud, flags, tier):
    ended = cloud.run(SCRIPT, "nodes", *JOB, "--cluster=c", "--location=us-central2-b", "--slices=2", *flags)
    assert ended.returncode == 0, ended.stderr
    place = ["--cluster=c", "--location=us-central2-b"]
    machine = ["--machine-type=ct4p-hightpu-4t", "--tpu-topology=4x8x8", "--num-nodes=64"]
    assert cloud.calls() == [
        ["gcloud", "container", "node-pools", "create", f"base-{number}", *place, *machine, *tier]
        for number in range(2)
    ]


@pytest.mark.parametrize(
    ("accelerator", "topology", "machine"),
    [
        ("v5p-8", "2x2x1", "ct5p-hightpu-4t"),
        ("v5litepod-8", "2x4", "ct5lp-hightpu-8t"),
        ("v5litepod-16", "4x4", "ct5lp-hightpu-4t"),
        ("v6e-1", "1x1", "ct6e-standard-1t"),
        ("v6e-256", "16x16", "ct6e-standard-4t"),
    ],
)
def test_the_machines_of_a_generation(cloud, accelerator, topology, machine):
    flags = (f"--accelerator={accelerator}", f"--topology={topology}", "--cluster=c", "--location=l", "--dry_run")
    assert f"--machine-type={machine} " in cloud.run(SCRIPT, "nodes", *JOB, *flags).stdout


def test_a_node_pool_that_fails_is_a_sentence(cloud):
    cloud.set(fail={"node-pools create base-1": "QUOTA"})
    ended = cloud.run(SCRIPT, "nodes", *JOB, "--cluster=c", "--location=l", "--slices=3")
    assert ended.returncode == 2
    assert "base-1" in ended.stderr
    assert len(cloud.calls()) == 2


def test_apply_gives_kubectl_the_rendered_manifest(cloud):
    ended = cloud.run(SCRIPT, "apply", *JOB, "--context=cluster", "--namespace=team")
    assert ended.returncode == 0, ended.stderr
    assert cloud.calls() == [["kubectl", "--context=cluster", "--namespace=team", "apply", "--filename=-"]]
    assert yaml.safe_load((cloud.folder / "manifest.yaml").read_text()) == render(cloud)


def test_apply_does_not_take_a_jobset_that_has_ended_for_a_new_one(cloud):
    cloud.set(kubectl_applies="unchanged", terminal_state="Failed")
    ended = cloud.run(SCRIPT, "apply", *JOB)
    assert ended.returncode == 2
    assert "Failed" in ended.stderr and "delete" in ended.stderr
    state = ["kubectl", "get", "jobset", "base", "--output=jsonpath={.status.terminalState}"]
    assert cloud.calls() == [["kubectl", "apply", "--filename=-"], state]


def test_applying_a_jobset_that_runs_again_changes_nothing(cloud):
    cloud.set(kubectl_applies="unchanged")
    assert cloud.run(SCRIPT, "apply", *JOB).returncode == 0


@pytest.mark.parametrize("dry", [(), ("--dry_run",)])
@pytest.mark.parametrize(
    ("command", "config", "told"),
    [
        ("nodes", "configs/imagen/base_64.py:3b", "2b, 1b, 500m, 300m"),
        ("apply", "configs/imagen/base_64.py:3b", "2b, 1b, 500m, 300m"),
        ("apply", "x:2b", "configs/x.py"),
        ("render", "configs/imagen/base.py", "configs/imagen/base.py"),
    ],
)
def test_a_config_that_the_image_would_not_have_is_refused_first(cloud, command, config, told, dry):
    ended = cloud.run(SCRIPT, command, *JOB, "--cluster=c", "--location=l", f"--config={config}", *dry)
    assert ended.returncode == 2 and ended.stdout == ""
    assert told in ended.stderr
    assert cloud.calls() == []


def test_a_dry_run_prints_what_can_be_pasted(cloud):
    flags = (*JOB, "--", "--config.preview.prompts=('a cat', \"it's\")")
    dry = cloud.run(SCRIPT, "apply", "--dry_run", *flags)
    assert cloud.calls() == []
    subprocess.run(["bash", "-e"], input=dry.stdout, env=cloud.environment, text=True, check=True)
    assert cloud.calls() == [["kubectl", "apply", "--filename=-"]]
    assert yaml.safe_load((cloud.folder / "manifest.yaml").read_text()) == render(cloud, *flags[len(JOB) :])


@pytest.mark.parametrize(
    ("command", "flags", "expected"),
    [
        ("delete", [], ["kubectl delete jobset base --ignore-not-found"]),
        (
            "status",
            [],
            [
                "kubectl get jobset base",
                "kubectl get pods --selector=jobset.sigs.k8s.io/jobset-name=base --output=wide",
            ],
        ),
        (
            "logs",
            ["--slice=1", "--host=3"],
            [
                "kubectl logs --follow --tail=100 --container=train --selector=jobset.sigs.k8s.io/jobset-name=base,"
                "jobset.sigs.k8s.io/job-index=1,batch.kubernetes.io/job-completion-index=3"
            ],
        ),
    ],
)
def test_what_kubectl_is_told(cloud, command, flags, expected):
    dry = cloud.run(SCRIPT, command, "--name=base", "--dry_run", *flags)
    assert dry.stdout.splitlines() == expected
    assert cloud.calls() == []
    assert cloud.run(SCRIPT, command, "--name=base", *flags).returncode == 0
    assert cloud.calls() == [shlex.split(line) for line in expected]


def test_a_cluster_without_jobset_is_a_sentence(cloud):
    cloud.set(kubectl_says='error: no matches for kind "JobSet" in version "jobset.x-k8s.io/v1alpha2"')
    ended = cloud.run(SCRIPT, "apply", *JOB)
    assert ended.returncode == 2
    assert "launch/gke/README.md" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--topology=4x4x8"], "--topology=4x4x8 has 128 chips"),
        (["--topology=16x16"], "4x8x8"),
        (["--accelerator=v6e-256"], "16x16"),
        (["--accelerator=v4-8", "--topology=2x2x1", "--slices=2"], "--slices=2"),
        (["--workdir=runs/x"], "--workdir=runs/x"),
        (["--spot", "--reservation=r"], "--spot and --reservation"),
        (["--slices=two"], "--slices=two"),
        (["--image="], "--image is missing: render needs it"),
        (["--nodes=1"], "--nodes=1"),
    ],
)
def test_a_mistake_is_a_sentence(cloud, flags, sentence):
    ended = cloud.run(SCRIPT, "render", *JOB, *flags)
    assert ended.returncode == 2
    assert sentence in ended.stderr and ended.stdout == ""


def test_the_image_installs_from_files_that_are_there():
    copied = re.findall(r"^COPY (.+)", (CHECKOUT / "launch/gke/Dockerfile").read_text(), flags=re.MULTILINE)
    files = [name for line in copied for name in line.split()[:-1]]
    assert "requirements.lock" in files
    assert [name for name in files if not (CHECKOUT / name).exists()] == []


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="the Google Cloud CLI is not installed")
def test_the_real_gcloud_has_every_flag_that_we_give_it(cloud):
    given = set()
    for tier in ("--spot", "--reservation=r"):
        flags = ("--cluster=c", "--location=l", "--project=p", tier, "--dry_run")
        words = shlex.split(cloud.run(SCRIPT, "nodes", *JOB, *flags).stdout)
        given |= {word.split("=")[0] for word in words if word.startswith("--")}
    described = subprocess.run([*words[:4], "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    plain = re.sub("\x1b\\[[0-9;]*m|.\b", "", described)
    assert "--tpu-topology" in given
    assert [flag for flag in sorted(given) if not re.search(rf"{flag}(?![-\w])", plain)] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_real_kubectl_has_every_flag_that_we_give_it(cloud):
    def described(*words):
        return subprocess.run(["kubectl", *words], capture_output=True, text=True, timeout=60, check=True).stdout

    everywhere = described("options")
    for command in ("apply", "status", "logs", "delete"):
        dry = cloud.run(SCRIPT, command, "--dry_run", *JOB, "--context=c", "--namespace=n")
        for line in dry.stdout.splitlines():
            if line.startswith("kubectl "):
                words = [
                    word
                    for word in shlex.split(line.split("<<")[0])
                    if not word.startswith(("--context", "--namespace"))
                ]
                known = everywhere + described(words[1], "--help")
                flags = [word.split("=")[0] for word in words if word.startswith("--")]
                assert [flag for flag in flags if not re.search(rf"{flag}(?![-\w])", known)] == []
    assert re.search(r"--context(?![-\w])", everywhere) and re.search(r"--namespace(?![-\w])", everywhere)
