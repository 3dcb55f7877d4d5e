"""Stands in for kubectl: notes its arguments and what it is given to read, and fails where it is told to."""

import json
import os
import sys
from pathlib import Path

arguments = sys.argv[1:]
cloud = json.loads(Path(os.environ["FAKE_CLOUD"]).read_text())
with open(os.environ["FAKE_RECORD"], "a") as record:
    record.write(json.dumps(["kubectl", *arguments]) + "\n")
if "--filename=-" in arguments:
    Path(os.environ["FAKE_CLOUD"]).with_name("manifest.yaml").write_text(sys.stdin.read())
    if not cloud.get("kubectl_says"):
        print("jobset.jobset.x-k8s.io/base", cloud.get("kubectl_applies", "created"))
if "--output=jsonpath={.status.terminalState}" in arguments:
    print(cloud.get("terminal_state", ""), end="")
if cloud.get("kubectl_says"):
    print(cloud["kubectl_says"], file=sys.stderr)
    sys.exit(1)
