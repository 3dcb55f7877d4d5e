"""Stands in for gcloud: notes its arguments, and answers from a file as the queued resources of Cloud TPU would.

The file's keys:

    state          of the queued resource, or "NONE", or "UNREACHABLE" where gcloud fails
    states         the states it goes through next, one at a time, whenever it is asked for
    workers        how many workers there are
    worker         what each of them does: "absent", "idle", "running", "lost", "ended 0" …
    events         what happens to an active pod, one at each question about its workers: "preempted", "rebooted",
                   "ended 0" …, or "" for nothing
    after_create   the states after a create
    fail           words of a command line at which gcloud fails, mapped to what it then says; each once
    silent         workers that do not answer
"""

import json
import os
import sys
from pathlib import Path

arguments = sys.argv[1:]
line = " ".join(arguments)
cloud_file = Path(os.environ["FAKE_CLOUD"])
cloud = {
    "state": "NONE",
    "workers": 1,
    "worker": "absent",
    "after_create": ["ACTIVE"],
    **json.loads(cloud_file.read_text()),
}


def leave(status: int = 0) -> None:
    cloud_file.write_text(json.dumps(cloud))
    sys.exit(status)


def complain(words: str) -> None:
    print(f"ERROR: (gcloud.compute.tpus) {words}", file=sys.stderr)
    leave(1)


def answer(word: str) -> None:
    for number in range(cloud["workers"] - cloud.get("silent", 0)):
        print(f"imagen-jax: {word} on worker-{number}")


def describe() -> None:
    if cloud.get("states"):
        cloud["state"] = cloud["states"].pop(0)
    if cloud["state"] == "NONE":
        complain("NOT_FOUND: Resource was not found.")
    if cloud["state"] == "UNREACHABLE":
        complain("UNAVAILABLE: the network is down")
    print(cloud["state"])


def create() -> None:
    if cloud["state"] != "NONE":
        complain("ALREADY_EXISTS: Resource exists.")
    cloud["states"] = list(cloud["after_create"])
    cloud["state"] = "CREATING"
    cloud["worker"] = "absent"


def delete() -> None:
    cloud.update(state="NONE", states=[], worker="absent")


def preempt() -> None:
    cloud.update(state="SUSPENDED", states=["SUSPENDING", "SUSPENDED"], worker="absent")
    complain("the node is PREEMPTED")


def ssh() -> None:
    if cloud["state"] != "ACTIVE":
        complain("the node is not there")
    command = next(word for word in arguments if word.startswith("--command="))
    if command.endswith("tpu_worker.sh install"):
        cloud["worker"] = "idle"
        answer("installed")
    elif " start " in command:
        cloud["worker"] = "running"
        answer("started")
    elif command.endswith("tpu_worker.sh stop"):
        cloud["worker"] = "idle"
        answer("stopped")
    elif "tail " in command:
        print("step 100  loss 0.1")
    else:
        event = cloud["events"].pop(0) if cloud.get("events") and cloud["worker"] == "running" else ""
        if event == "preempted":
            preempt()
        elif event:
            cloud["worker"] = "lost" if event == "rebooted" else event
        answer(cloud["worker"])


with open(os.environ["FAKE_RECORD"], "a") as record:
    record.write(json.dumps(["gcloud", *arguments]) + "\n")
for words, said in cloud.get("fail", {}).items():
    if words in line:
        del cloud["fail"][words]
        complain(said)
if arguments[:2] == ["container", "node-pools"]:
    leave()
if arguments[:3] != ["compute", "tpus", "queued-resources"]:
    complain("unknown command")
{"describe": describe, "create": create, "delete": delete, "scp": leave, "ssh": ssh}[arguments[3]]()
leave()
