#!/usr/bin/env python3
"""Runs every command of README.md as it is written there, so that the README cannot promise what does not work.

What a person sees is what is checked: a comment `# → TEXT` behind a command says what its output must contain.
`mirrord exec` and `mirrord inspect` are foreground commands for a person, who goes on in a second terminal: here they run
beside the next block, which is repeated until all outputs are as said, and then it gets the Ctrl-C. Prints `readme: COMMAND: ok` or
`... FAILED` for each. Not run: `make test`, which is what calls this.

The section "Kubernetes" is run by `scripts/check-readme.py --cluster`, and nothing else then, on the test cluster (tests/cluster), which
must be up, from its developer's machine: what starts with `kubectl` as who runs the cluster, all else as user `developer`. Of it the
image's way through a registry is not run: there is none.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLUSTER = "Kubernetes"
WAIT = 60 if "--cluster" in sys.argv else 20  # seconds until what a comment says must be seen
NOT_RUN = {"make test": "it is what calls this check"}
# What the commands leave in the work tree, and a file that they change.
LEFTOVERS = ["target/mine"]
STATE = pathlib.Path("/var/tmp/mirrord-cluster")  # tests/cluster/env.sh
IMAGE = "registry.example/mirrord-agent:0.1.0"
NAMESPACES = ["shop", "mirrord"]
LOCK = ROOT / "examples/filters/Cargo.lock"
failures = 0
cluster = sys.argv[1:] == ["--cluster"]


class Command:
    def __init__(self, text):
        self.text, _, expected = (part.strip() for part in text.partition("# →"))
        self.expected = expected
        words = f" {self.text.replace('target/release/', '')} "
        self.is_session = " mirrord exec " in words or " mirrord inspect " in words
        # A machine on which everything runs as root may have no sudo.
        self.shell = self.text.removeprefix("sudo ") if os.geteuid() == 0 else self.text
        if cluster:
            user = "admin" if "kubectl" in self.text else "developer"
            self.shell = f"nsenter --net=/run/netns/mirrord-dev -- env KUBECONFIG={STATE}/{user}.kubeconfig bash -ec {shlex.quote(self.text)}"

    def run(self):
        done = subprocess.run(["bash", "-ec", self.shell], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800)
        return done.returncode == 0 and self.expected in done.stdout, done.stdout

    def report(self, ok, output=""):
        global failures
        failures += not ok
        if not ok:
            print(f"--- expected exit status 0 and {self.expected!r} in:\n{output}---")
        print(f"readme: {' '.join(self.text.split())}: {'ok' if ok else 'FAILED'}", flush=True)


def blocks(text):
    """The ```sh blocks: lists of commands, continuation lines joined, with the heading that they stand under."""
    heading = ""
    for part in re.finditer(r"^#+ ([^\n]*)$|^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if part[1] is not None:
            heading = part[1]
        elif part[2] == "sh":
            lines = part[3].replace("\\\n", " ").splitlines()
            yield heading, [Command(line) for line in lines if line.strip() and not line.startswith("#")]


class Session:
    """A `mirrord exec` that runs beside the next block."""

    def __init__(self, command):
        self.command = command
        self.output = tempfile.TemporaryFile("w+")
        # A group of its own, as a terminal gives it: Ctrl-C goes to mirrord and to the program.
        self.process = subprocess.Popen(["bash", "-c", f"exec {command.shell}"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self.output,
                                        stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def says(self):
        self.output.seek(0)
        return self.output.read()

    def as_expected(self):
        return self.process.poll() is None and self.command.expected in self.says()

    def end(self):
        ok = self.as_expected()
        group = ["sudo", "kill"] if os.geteuid() else ["kill"]
        for name, patience in (("INT", 15), ("KILL", 5)):
            if self.process.poll() is None:
                subprocess.run([*group, f"-{name}", "--", f"-{self.process.pid}"], check=False)
                try:
                    self.process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    ok = False
        self.command.report(ok, self.says())


def run_beside(session, commands):
    """Repeats the block until all its outputs and the session's are as expected: a session takes a moment to begin."""
    deadline = time.monotonic() + WAIT
    while True:
        outcomes = [command.run() for command in commands]
        if (all(ok for ok, _ in outcomes) and session.as_expected()) or time.monotonic() > deadline or session.process.poll() is not None:
            break
        time.sleep(0.1)
    for command, (ok, output) in zip(commands, outcomes):
        command.report(ok, output)


def check():
    session = None
    for heading, commands in blocks((ROOT / "README.md").read_text()):
        if (heading == CLUSTER) != cluster or not commands:
            continue
        if commands[-1].is_session:
            session = Session(commands[-1])
        elif session:
            run_beside(session, commands)
            session.end()
            session = None
        else:
            for command in commands:
                if command.text in NOT_RUN:
                    print(f"readme: {command.text}: not run, {NOT_RUN[command.text]}")
                else:
                    command.report(*command.run())


def on_cluster(script):
    subprocess.run(["bash", "-euo", "pipefail", "-c", f". tests/cluster/env.sh\n{script}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def remove_namespaces():
    on_cluster(f"k delete namespace {' '.join(NAMESPACES)} --ignore-not-found")


def check_cluster():
    """What the reader has: kubectl, a deployment, a pod to ask from, and the image where the node finds it."""
    os.environ["PATH"] += f":{STATE}"
    remove_namespaces()
    try:
        on_cluster(f"""
            in_node ctr -n k8s.io images tag --force docker.io/library/{IMAGE.split("/")[1]} {IMAGE}
            k create namespace shop
            k -n shop apply -f tests/cluster/manifests/shop.yaml
            k -n shop rollout status deployment/shop --timeout=120s
            k -n shop wait --for=condition=Ready pod/client --timeout=120s""")
        check()
    finally:
        remove_namespaces()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if cluster:
        check_cluster()
        sys.exit(1 if failures else 0)
    for leftover in LEFTOVERS:
        if (ROOT / leftover).exists():
            sys.exit(f"check-readme: {leftover} exists already; remove it first")
    lock = LOCK.read_bytes()
    try:
        check()
    finally:
        LOCK.write_bytes(lock)
        for leftover in map(ROOT.joinpath, LEFTOVERS):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        # The pod that the README makes, also when a step before its removal failed.
        subprocess.run([*(["sudo"] if os.geteuid() else []), "scripts/pod.sh", "down", "shop"], cwd=ROOT, check=False)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
