#!/usr/bin/env bash
# The demo: a pod with a web server, your program beside it, and who answers which request. Ends with `demo: ok`.
#
#   make demo             builds what is missing, then runs this
#
# Everything happens in two network namespaces of its own (scripts/pod.sh), which are removed however it ends.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
MIRRORD=target/release/mirrord
FILTER=target/filters/header.wasm
APP=scripts/demo/app.py
POD=demo-$$
WAIT=15 # seconds that something may take to happen before the demo fails

bold='' dim='' green='' red='' reset=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' reset=$'\e[0m'
fi

tmp=$(mktemp -d -t mirrord-demo-XXXXXX)
step='getting ready'
step() { step=$1; printf '\n%s%s%s\n' "$bold" "$1" "$reset"; }
note() { printf '  %s%s%s\n' "$dim" "$1" "$reset"; }

# --- However it ends, nothing stays ---------------------------------------------------------------------------------

fail() {
    printf '%sdemo: failed at "%s": %s%s\n' "$red" "$step" "$1" "$reset" >&2
    local log
    for log in "$tmp"/*.log; do
        [ ! -s "$log" ] || { echo "--- $(basename "$log"):"; tail -n 40 "$log"; } >&2
    done
    exit 1
}

cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    stop_session
    "${root[@]}" scripts/pod.sh down "$POD" || true
    rm -rf "$tmp"
    exit "$status"
}

# --- Root, for just what needs it -----------------------------------------------------------------------------------

root=()
if [ "$(id -u)" != 0 ]; then
    echo "The demo needs root for two things, and asks sudo for just these: network namespaces (the pod, its clients and"
    echo "what enters them), and mirrord exec, which redirects a port with iptables inside the pod's namespace."
    sudo -v || { echo "demo: failed: no sudo; run it as root" >&2; exit 1; }
    root=(sudo)
fi
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
trap 'fail "a command failed (line $LINENO)"' ERR

# --- Requests -------------------------------------------------------------------------------------------------------

# ask PATH [HEADER]: the answer to a GET of a client of the pod
ask() { "${root[@]}" scripts/pod.sh curl "$POD" --max-time 10 ${2:+-H "$2"} "http://pod$1"; }

# expect WHO PATH [HEADER]: asks, prints who answered, and fails if it was not WHO
expect() {
    local who=$1 path=$2 header=${3:-} answer
    answer=$(ask "$path" "$header") || fail "GET $path got no answer"
    [[ $answer == "$who"* ]] || fail "GET $path ${header:+($header) }was answered by '$answer', not by $who"
    printf '  GET %-9s %-14s → %s%s%s\n' "$path" "$header" "$green" "$answer" "$reset"
}

# eventually WHAT COMMAND...: polls until the command succeeds; fails when the session has ended or time is up
eventually() {
    local what=$1 deadline=$((SECONDS + WAIT))
    shift
    until "$@" >/dev/null 2>&1; do
        [ -z "$session" ] || kill_0 || fail "mirrord ended early"
        [ "$SECONDS" -lt "$deadline" ] || fail "$what did not happen within $WAIT s"
        sleep 0.05
    done
}

# --- The session ----------------------------------------------------------------------------------------------------

session='' # the job, sudo's where there is one; mirrord's own process is in $tmp/pid
kill_0() { kill -0 "$session" 2>/dev/null || [ -d "/proc/$session" ]; }

# begin_session LOG ARGUMENTS...: mirrord exec in the background; the program's output and mirrord's go to LOG
begin_session() {
    local log=$1
    shift
    : >"$log.out"
    rm -f "$tmp/pid"
    # The shell writes its number down and becomes mirrord: sudo does not pass on signals of its caller's own group.
    # shellcheck disable=SC2016
    "${root[@]}" bash -c 'echo $$ >"$1"; shift; exec "$@"' - "$tmp/pid" \
        "$MIRRORD" exec -t "netns/$POD" "$@" -- python3 "$APP" >"$log.out" 2>"$log.log" </dev/null &
    session=$!
}

# Asks mirrord to end, and makes it end when it does not; its exit status goes to $session_status.
stop_session() {
    [ -n "$session" ] || return 0
    local pid deadline=$((SECONDS + WAIT))
    pid=$(cat "$tmp/pid" 2>/dev/null || echo 0)
    [ "$pid" = 0 ] || "${root[@]}" kill -TERM "$pid" 2>/dev/null || true
    while kill_0 && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.02; done
    ! kill_0 || [ "$pid" = 0 ] || "${root[@]}" kill -KILL "$pid" 2>/dev/null || true
    session_status=0
    wait "$session" || session_status=$?
    session=''
}

end_session() {
    stop_session
    # mirrord ends as its program ended: by the SIGTERM that it passed on.
    [ "$session_status" = 143 ] || fail "mirrord ended with status $session_status instead of 143 (SIGTERM)"
}

program_answers() { [[ $(ask /ready 'x-user: me') == 'your program'* ]]; }
program_saw() { grep -qF "saw $2 " "$tmp/$1.out"; }
pod_ask_and_program_saw() { ask "$2" >/dev/null && program_saw "$1" "$2"; }

# The firewall of the pod as it stands: without counters and the comments that carry a date.
rules() {
    local save
    for save in iptables-save ip6tables-save; do
        "${root[@]}" nsenter --net="/run/netns/$POD" "$save" | sed '/^[*:#]/d; /^COMMIT$/d'
    done
}
rules_as_before() { [ "$(rules)" = "$rules_before" ]; }
# The name of this run's pod is in the command line of each process that mirrord started for it.
processes_gone() { ! pgrep -f "mirrord.*netns/$POD"; }
socket_gone() { [ ! -e "/run/mirrord/agent-$inode.sock" ]; }

# --- The story ------------------------------------------------------------------------------------------------------

for built in "$MIRRORD" "$FILTER"; do
    [ -f "$built" ] || fail "$built is not built yet; run: make demo"
done

step "1. A pod: nginx in a network namespace, which answers everybody"
"${root[@]}" scripts/pod.sh up "$POD"
inode=$(stat -L -c %i "/run/netns/$POD")
rules_before=$(rules)
expect 'the pod' /
expect 'the pod' / 'x-user: me'

step "2. Steal: requests with 'x-user: me' come to your program, all others stay with the pod"
note "mirrord exec -t netns/$POD --steal --filter header.wasm --filter-config '{\"name\":\"x-user\",\"value\":\"me\"}' -- python3 app.py"
begin_session "$tmp/steal" --steal --filter "$FILTER" --filter-config '{"name":"x-user","value":"me"}'
eventually "your program answering a request" program_answers
expect 'the pod' /
expect 'your program' / 'x-user: me'
expect 'the pod' / 'x-user: you'
end_session

step "3. The session has ended: the pod answers everything again"
expect 'the pod' /
expect 'the pod' / 'x-user: me'

step "4. Mirror: the pod answers everybody, your program sees a copy"
note "mirrord exec -t netns/$POD --mirror -- python3 app.py"
begin_session "$tmp/mirror" --mirror
eventually "your program seeing a request" pod_ask_and_program_saw mirror /ready
for path in /cart /checkout; do
    expect 'the pod' "$path"
    eventually "your program seeing GET $path" program_saw mirror "$path"
    printf '  %-28s   %s%s%s\n' '' "$green" "your program $(grep -F "saw $path " "$tmp/mirror.out" | head -n1)" "$reset"
done
end_session

step "5. Nothing is left"
eventually "the pod's firewall being as before" rules_as_before
echo "  the pod's firewall rules are those from before"
eventually "the end of mirrord's processes" processes_gone
eventually "the agent's socket going" socket_gone
echo "  no agent, no process and no socket of mirrord"
expect 'the pod' / 'x-user: me'
step='removing the pod'
"${root[@]}" scripts/pod.sh down "$POD"
[ ! -e "/run/netns/$POD" ] || fail "the namespace is still there"

printf '\ndemo: ok\n'
