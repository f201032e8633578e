#!/usr/bin/env python3
"""What a request costs on its way through a proxy: nginx, haproxy and the agent, side by side in one run.

Pods and their clients are network namespaces joined by veth pairs. The plain pod has a web server and, in front of it,
nginx and haproxy as reverse proxies; the two others have the same web server and a mirrord session with the header
filter, of which one delivers by passed sockets and one through the tunnel. HTTP/2 has a table of its own: nginx cannot
speak it to an upstream, so haproxy is what is compared with. Rounds are interleaved, because other work on the machine
disturbs them, and medians are taken.
README.md tells how to read the table.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target/release"
SERVER = ROOT / "target/bench/server"
FILTER = ROOT / "target/filters/header.wasm"
HEADER = "x-user: me"
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
# Columns are times nginx's: CPU, requests/s (64 connections), p50 (one connection).
GOALS = {
    "passed": (1.0, 1.0, 1.1),
    "stolen, socket passed": (1.0, 0.8, 1.5),
    "stolen, through the tunnel": (1.25, 0.8, 1.5),
}
PASSED, SOCKET, TUNNEL = GOALS
# HTTP/2: connections and streams of each, and the most CPU a request, in haproxy's.
H2_CONNECTIONS, H2_STREAMS, H2_CPU = 16, 32, 2.0
H2_HAPROXY, H2_PASSED = "haproxy, HTTP/2", "passed, HTTP/2"

# One worker each, so that CPU and rate compare; connections to the upstream are kept, as every proxy in production does.
NGINX = """
pid {dir}/{name}.pid; error_log {dir}/{name}.log; worker_processes 1; worker_rlimit_nofile 4096; daemon off;
events {{ worker_connections 2048; }}
http {{
    access_log off; default_type text/plain; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};
    {http}
}}
"""
NGINX_SERVER = "server { listen 80; listen 81 http2; location / { return 200 '%s\\n'; } }" % ("x" * 99)
NGINX_PROXY = """
    upstream pod { server 127.0.0.1:80; keepalive 128; keepalive_requests 1000000000; }
    server { listen 8081; location / { proxy_pass http://pod; proxy_http_version 1.1; proxy_set_header Connection ''; } }
"""
HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind *:8082
    default_backend pod
backend pod
    http-reuse always
    server pod 127.0.0.1:80
frontend h2_clients
    bind *:8083 proto h2
    default_backend h2_pod
backend h2_pod
    http-reuse always
    server pod 127.0.0.1:81 proto h2
"""


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, text=True, capture_output=True, **options).stdout


def until(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"bench: {what} did not happen within {seconds} s")
        time.sleep(0.05)
    return result


# --- The place: namespaces, servers, proxies, the session ------------------------------------------------------------


class Bench:
    """Everything that was started; leaving the `with` ends and removes it, in reverse order."""

    def __init__(self, stack):
        self.stack = stack
        self.dir = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mirrord-bench-")))
        self.dir.chmod(0o755)
        namespaces = [f"bench-{os.getpid()}-{role}" for role in ("clients", "plain", "socket", "tunnel")]
        self.clients, self.plain, self.socket, self.tunnel = namespaces
        for namespace in namespaces:
            run("ip", "netns", "add", namespace)
            stack.callback(run, "ip", "netns", "del", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        for network, pod in enumerate(namespaces[1:], 1):
            here, there = f"eth{network}", "eth0"
            run("ip", "-n", self.clients, "link", "add", here, "type", "veth", "peer", "name", there, "netns", pod)
            for namespace, device, host in ((pod, there, 1), (self.clients, here, 2)):
                run("ip", "-n", namespace, "addr", "add", f"10.67.{network}.{host}/24", "dev", device)
                run("ip", "-n", namespace, "link", "set", device, "up")

    def start(self, namespace, *command, **options):
        """Starts a program in a namespace (None: this machine's); it ends with the bench."""
        enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        log = open(self.dir / f"{pathlib.Path(str(command[0])).name}-{namespace}.log", "ab")
        process = subprocess.Popen([*enter, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        log.close()

        def end():
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self.stack.callback(end)
        return process

    def nginx(self, namespace, name, http):
        config = self.dir / f"{namespace}-{name}.conf"
        config.write_text(NGINX.format(dir=self.dir, name=f"{namespace}-{name}", http=http))
        return self.start(namespace, "nginx", "-p", self.dir, "-c", config, "-e", self.dir / f"{name}.err")

    def haproxy(self, namespace):
        config = self.dir / "haproxy.cfg"
        config.write_text(HAPROXY)
        return self.start(namespace, "haproxy", "-db", "-f", config)

    def session(self, namespace, delivery, agent_file):
        """A session of the bench server, with the header filter; the agent has one worker like the proxies."""
        return self.start(
            None, RELEASE / "mirrord", "exec", "-t", f"netns/{namespace}", "--steal", "--filter", FILTER,
            "--filter-config", '{"name":"x-user","value":"me"}', "--", SERVER, "80", "81",
            env={**os.environ, "MIRRORD_AGENT_WORKERS": "1", "MIRRORD_AGENT_FILE": str(agent_file),
                 "MIRRORD_DELIVERY": delivery, "MIRRORD_AGENT_LOG": str(self.dir / f"mirrord-agent-{delivery}.log")},
        )

    def get(self, url, *headers):
        command = ["nsenter", f"--net=/run/netns/{self.clients}", "curl", "-s", "--max-time", "5"]
        for header in headers:
            command += ["-H", header]
        return subprocess.run([*command, url], text=True, capture_output=True).stdout

    def wrk(self, url, header, seconds, connections):
        out = run("nsenter", f"--net=/run/netns/{self.clients}", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", header,
                  "-s", ROOT / "bench/report.lua", url)
        report = next(line for line in out.splitlines() if line.startswith("report "))
        requests, micros, p50, p99, errors = map(int, report.split()[1:])
        if errors:
            message = f"bench: {errors} of {requests} requests to {url} failed\n{out}"
            # What others lose is theirs; we lose nothing.
            if url.startswith("http://10.67.1.1"):
                print(message, file=sys.stderr)
            else:
                sys.exit(message)
        return requests, requests / micros * 1e6, p50 / 1000, p99 / 1000

    def h2load(self, url, header, seconds, connections):
        log = self.dir / "h2load.log"
        log.unlink(missing_ok=True)
        out = run("nsenter", f"--net=/run/netns/{self.clients}", "h2load", "-t1", f"-c{connections}", f"-m{H2_STREAMS}",
                  f"-D{seconds}", f"--log-file={log}", "-H", header, url)
        counts = dict((name, int(count)) for count, name in re.findall(r"(\d+) (\w+)", re.search(r"requests: .*", out)[0]))
        # What was under way when the time was over counts as neither.
        if counts["failed"] or counts["errored"] or counts["timeout"]:
            sys.exit(f"bench: requests to {url} failed\n{out}")
        micros = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        return counts["done"], counts["done"] / seconds, micros[len(micros) // 2] / 1000, micros[len(micros) * 99 // 100] / 1000


# --- CPU -------------------------------------------------------------------------------------------------------------


def children(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(child)]
    return found


def executable(pid):
    """None if the process has ended."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe")


def cpu_us(pids):
    """User and system time of whole processes so far, microseconds; one that has ended counts for nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) * TICK_US
    return total


def threads_in(namespace):
    """Processes of which a thread is in the namespace: the agent's workers enter it, its main thread need not."""
    inode = os.stat(f"/run/netns/{namespace}").st_ino
    found = set()
    for link in pathlib.Path("/proc").glob("[0-9]*/task/*/ns/net"):
        with contextlib.suppress(OSError):
            if os.stat(link).st_ino == inode:
                found.add(int(link.parts[2]))
    return found


@contextlib.contextmanager
def one_core(bench):
    """Everything on one core: from core to core it is the machine's wake-ups that would be measured, several times those of the proxies."""
    pids = {os.getpid(), *children(os.getpid())}
    for namespace in (bench.plain, bench.socket, bench.tunnel):
        pids |= threads_in(namespace)
    everywhere = os.sched_getaffinity(0)

    def pin(cores):
        for task in (task for pid in pids for task in pathlib.Path(f"/proc/{pid}/task").glob("*")):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), cores)

    pin({max(everywhere)})
    try:
        yield
    finally:
        pin(everywhere)


# --- Measuring -------------------------------------------------------------------------------------------------------


def measure(load, rows, seconds, rounds, connections):
    """rows: (name, url, header, pids of the proxy). Gives name -> list of (requests/s, p50, p99, CPU us a request)."""
    results = {name: [] for name, *_ in rows}
    for _, url, header, _ in rows:
        load(url, header, 1, connections)
    for number in range(rounds):
        for name, url, header, pids in rows:
            print(f"bench: round {number + 1} of {rounds}: {name}", file=sys.stderr)
            before = cpu_us(pids)
            requests, rate, p50, p99 = load(url, header, seconds, connections)
            results[name].append((rate, p50, p99, (cpu_us(pids) - before) / requests))
    return results


def table(results, base):
    """Prints it; gives for each row its CPU and its requests/s, divided by the base's."""
    print(f"| in front of the pod's server | requests/s | p50 ms | p99 ms | proxy CPU µs/request: median (least) | CPU ÷ {base} | requests/s ÷ {base} |")
    print("|---|---|---|---|---|---|---|")
    ratios = {}
    for name, rounds in results.items():
        rate, p50, p99, cpu = (statistics.median(column) for column in zip(*rounds))
        least = min(row[3] for row in rounds)
        # Neighbouring runs had the same neighbours on the machine: ratios are taken round by round.
        cpu_ratio = statistics.median(mine[3] / its[3] for mine, its in zip(rounds, results[base]))
        rate_ratio = statistics.median(mine[0] / its[0] for mine, its in zip(rounds, results[base]))
        costs = (f"{cpu:.1f} ({least:.1f})", f"{cpu_ratio:.2f}") if cpu else ("–", "–")
        print(f"| {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {costs[0]} | {costs[1]} | {rate_ratio:.2f} |")
        ratios[name] = (cpu_ratio, rate_ratio)
    return ratios


def latencies(results, base):
    """One connection, one core: the time of a request. Prints p50 and p99; gives p50 divided by the base's."""
    print("\n| one connection, all on one core | p50 µs | p99 µs | p50 ÷ nginx |")
    print("|---|---|---|---|")
    ratios = {}
    for name, rounds in results.items():
        p50, p99 = (statistics.median(row[column] for row in rounds) * 1000 for column in (1, 2))
        ratios[name] = statistics.median(mine[1] / its[1] for mine, its in zip(rounds, results[base]))
        print(f"| {name} | {p50:.0f} | {p99:.0f} | {ratios[name]:.2f} |")
    return ratios


def verdicts(ratios, p50):
    print("\n| goal, times nginx's in the same run | CPU | requests/s | p50, one connection |")
    print("|---|---|---|---|")
    for name, (most_cpu, least_rate, most_p50) in GOALS.items():
        cpu, rate = ratios[name]

        def cell(value, sign, goal):
            reached = value <= goal if sign == "≤" else value >= goal
            return f"{value:.2f} {sign} {goal}: {'reached' if reached else '**not reached**'}"

        print(f"| {name} | {cell(cpu, '≤', most_cpu)} | {cell(rate, '≥', least_rate)} | {cell(p50[name], '≤', most_p50)} |")


def h2_verdict(ratios):
    cpu, _ = ratios[H2_PASSED]
    reached = "reached" if cpu <= H2_CPU else "**not reached**"
    print(f"\nGoal: CPU of a passed request over HTTP/2, times haproxy's in the same run: {cpu:.2f} ≤ {H2_CPU}: {reached}")


def version(*command):
    out = subprocess.run(command, text=True, capture_output=True)
    return (out.stdout + out.stderr).splitlines()[0]


def proxies(bench):
    """Starts the plain pod; gives its rows, and those of HTTP/2."""
    bench.nginx(bench.plain, "server", NGINX_SERVER)
    nginx = bench.nginx(bench.plain, "proxy", NGINX_PROXY)
    haproxy = bench.haproxy(bench.plain)
    at = "http://10.67.1.1"
    for port in (80, 8081, 8082):
        until(f"the answer of port {port}", lambda: bench.get(f"{at}:{port}/") == "x" * 99 + "\n")
    pids = [haproxy.pid, *children(haproxy.pid)]
    rows = [
        ("nothing", f"{at}/", HEADER, []),
        ("nginx", f"{at}:8081/", HEADER, [nginx.pid, *children(nginx.pid)]),
        ("haproxy", f"{at}:8082/", HEADER, pids),
    ]
    return rows, [("nothing", f"{at}:81/", HEADER, []), (H2_HAPROXY, f"{at}:8083/", HEADER, pids)]


def agent(bench, delivery="socket", agent_file=RELEASE / "mirrord-agent"):
    """Starts a pod and a session on it; gives its rows (passed, stolen, passed over HTTP/2), and the agent's processes."""
    namespace, url = {"socket": (bench.socket, "http://10.67.2.1/"), "tunnel": (bench.tunnel, "http://10.67.3.1/")}[delivery]
    server = bench.nginx(namespace, "server", NGINX_SERVER)
    until("the answer of the pod", lambda: bench.get(url) == "x" * 99 + "\n")
    agents = set()
    # Called after the session's end: the namespace can go when the agent has.
    bench.stack.callback(until, "the agent's end", lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in agents))
    session = bench.session(namespace, delivery, agent_file)

    def stolen():
        if session.poll() is not None:
            logs = "".join(path.read_text() for path in bench.dir.glob("mirrord-*.log"))
            sys.exit(f"bench: mirrord ended with status {session.returncode}\n{logs}")
        return bench.get(url, HEADER).startswith("0123")

    until("a stolen request", stolen, 60)
    agents |= threads_in(namespace) - {server.pid, *children(server.pid)}
    local = {session.pid, *children(session.pid)} - agents
    # The program itself is no part of the way to it. exec keeps the process, so its name tells it.
    local = {pid for pid in local if executable(pid) not in (str(SERVER), None)}
    if not agents:
        sys.exit("bench: no agent found in the pod's namespace")
    h2_url = url.removesuffix("/") + ":81/"
    rows = [
        (PASSED, url, "x-user: you", agents),
        (SOCKET if delivery == "socket" else TUNNEL, url, HEADER, agents | local),
        (H2_PASSED, h2_url, "x-user: you", agents),
    ]
    return rows, agents


# --- Where it goes: --profile ----------------------------------------------------------------------------------------


def system_calls(bench, load, rows, seconds, connections):
    for name, url, header, pids in rows:
        out = bench.dir / "strace.txt"
        strace = subprocess.Popen(["strace", "-c", "-f", "-q", "-o", str(out), *(f"-p{pid}" for pid in pids)], stderr=subprocess.DEVNULL)
        time.sleep(1)  # strace says nothing of when it has attached
        requests, *_ = load(url, header, seconds, connections)
        strace.send_signal(signal.SIGINT)
        strace.wait()
        print(f"\nSystem calls a request: {name}\n")
        for line in out.read_text().splitlines()[2:]:
            fields = line.split()
            if len(fields) >= 5 and fields[3].isdigit() and int(fields[3]) / requests >= 0.005:
                print(f"    {int(fields[3]) / requests:6.2f}  {fields[-1]}")


def instructions(bench, seconds, connections):
    """The same session with the agent under callgrind: a script starts it so."""
    out = bench.dir / "callgrind.out"
    wrapper = bench.dir / "agent-under-callgrind"
    real = RELEASE / "mirrord-agent"
    shim = bench.dir / "own_exe.so"
    run("gcc", "-O2", "-shared", "-fPIC", "-o", shim, ROOT / "bench/server/own_exe.c")
    wrapper.write_text(
        f"#!/bin/sh\nMIRRORD_BENCH_AGENT='{real}' LD_PRELOAD='{shim}' "
        f"exec valgrind -q --tool=callgrind --callgrind-out-file={out}.%p '{real}' \"$@\"\n"
    )
    wrapper.chmod(0o755)
    (passed, _, h2_passed), agents = agent(bench, agent_file=wrapper)
    for row, load, connections in ((passed, bench.wrk, connections), (h2_passed, bench.h2load, H2_CONNECTIONS)):
        name, url, header, _ = row
        load(url, header, 1, connections)
        for pid in agents:
            subprocess.run(["callgrind_control", "--zero", str(pid)], capture_output=True)
        requests, *_ = load(url, header, seconds, connections)
        before = set(bench.dir.glob("callgrind.out.*"))
        for pid in agents:
            subprocess.run(["callgrind_control", "--dump", str(pid)], capture_output=True)
        print(f"\nInstructions in user space: {name}, {requests} requests\n")
        dumps = sorted(set(bench.dir.glob("callgrind.out.*")) - before, key=lambda path: path.stat().st_size)
        if not dumps:
            sys.exit("bench: callgrind wrote nothing")
        print_costs(self_costs(dumps[-1].read_text()), requests)


def print_costs(costs, requests):
    print(f"    {sum(costs.values()) / requests:8,.0f}  in all")
    for function, count in costs.most_common(25):
        print(f"    {count / requests:8,.0f}  {function[:130]}")


def self_costs(dump):
    """Instructions by function, from callgrind's own format. callgrind_annotate cannot: the calls that were under way when
    counting began have no beginning in the file, and it takes their whole cost for their own."""
    names, costs, function, of_a_call = {}, collections.Counter(), "", False
    for line in dump.splitlines():
        if name := re.match(r"(c?)fn=(\(\d+\))(?: (.*))?", line):
            # A name stands where its number comes first.
            names.setdefault(name[2], name[3] or "JIT code")
            function = function if name[1] else name[2]
        elif line.startswith("calls="):
            of_a_call = True
        elif cost := re.match(r"[+*\d-]\S* (\d+)$", line):
            if not of_a_call:
                costs[function] += int(cost[1])
            of_a_call = False
    return collections.Counter({names[number]: count for number, count in costs.items()})


# --- Main ------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("MIRRORD_BENCH_SECONDS", "5")), help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--no-agent", action="store_true", help="only what to compare with")
    parser.add_argument("--profile", action="store_true", help="also system calls (strace) and instructions (callgrind)")
    options = parser.parse_args()

    SERVER.parent.mkdir(parents=True, exist_ok=True)
    run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", SERVER, ROOT / "bench/server/server.c")
    if os.geteuid():
        print("bench: sudo is needed for network namespaces and for mirrord, which redirects a port in one of them", file=sys.stderr)
        keep = f"MIRRORD_BENCH_SECONDS={options.seconds}"
        os.execvp("sudo", ["sudo", keep, f"PATH={os.environ['PATH']}", sys.executable, *sys.argv])
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    # Ending by a signal removes everything too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))

    measured = (options.seconds, options.rounds, options.connections)
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        rows, h2_rows = proxies(bench)
        if not options.no_agent:
            passed, stolen, h2_passed = agent(bench, "socket")[0]
            tunnel = agent(bench, "tunnel")[0][1]
            rows += [passed, stolen, tunnel]
            h2_rows.append(h2_passed)
        results = measure(bench.wrk, rows, *measured)
        print(f"\n{options.rounds} rounds of {options.seconds} s each, {options.connections} connections, 100-byte responses, "
              f"one worker each; {os.cpu_count()} cores, Linux {os.uname().release}; "
              f"{version('nginx', '-v').removeprefix('nginx version: ')}, {' '.join(version('haproxy', '-v').split()[:3])}\n")
        ratios = table(results, "nginx")
        print(f"\nHTTP/2 on both sides, {H2_CONNECTIONS} connections of {H2_STREAMS} streams:\n")
        h2_ratios = table(measure(bench.h2load, h2_rows, options.seconds, options.rounds, H2_CONNECTIONS), H2_HAPROXY)
        with one_core(bench):
            single = measure(bench.wrk, rows, min(options.seconds, 2), options.rounds, 1)
        p50 = latencies(single, "nginx")
        if not options.no_agent:
            verdicts(ratios, p50)
            h2_verdict(h2_ratios)
        if options.profile and not options.no_agent:
            system_calls(bench, bench.wrk, rows[1:], min(options.seconds, 3), options.connections)
            system_calls(bench, bench.h2load, h2_rows[1:], min(options.seconds, 3), H2_CONNECTIONS)
    if options.profile and not options.no_agent:
        with contextlib.ExitStack() as stack:
            instructions(Bench(stack), min(options.seconds, 3), options.connections)


if __name__ == "__main__":
    main()
