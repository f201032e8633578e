//! What a session costs in a cluster: the time from an agent's pod to the program, and the agent's memory.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use mirrord_tests::{
    cluster::{Exec, Space},
    processes::{Process, tree},
    programs::Program,
    session::ME,
};

/// The program's port, which stands for the pods' port 80.
const LOCAL: u16 = 18080;

/// Between the agent's pod, ready, and the program.
const OVERHEAD: Duration = Duration::from_millis(500);

/// Of the agent's container, with one session, bytes.
const MEMORY: u64 = 20 << 20;

/// Time since the machine was started.
fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

/// Starts a session and says how long after the readiness of its agent's pod, as the API server tells of it, the program was started.
fn overhead(space: &Space) -> Duration {
    let mut watch = space.command();
    let columns = "custom-columns=NAME:.metadata.name,READY:.status.conditions[?(@.type=='Ready')].status";
    watch.args(["get", "pods", "-l", "app=mirrord", "--watch", "--no-headers", "-o", columns]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (ready_tx, ready) = mpsc::channel();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let reading = thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.trim_end().ends_with(" True") {
                let _ = ready_tx.send(uptime());
            }
        }
    });
    let session = Exec::steal_mine(space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]));
    let program = session.processes().into_iter().find(|process| process.program().starts_with("python")).unwrap();
    let ready_at = ready.recv_timeout(Duration::from_secs(10)).unwrap();
    let took = program.started().saturating_sub(ready_at);
    let agent = space.agents().remove(0).process("mirrord-agent");
    println!(
        "the program was started {took:?} after its agent's pod was ready, {:?} after its agent's process was started",
        program.started().saturating_sub(agent.started())
    );
    session.end();
    tree(Process(watch.id())).into_iter().for_each(Process::kill);
    watch.wait().unwrap();
    reading.join().unwrap();
    took
}

#[test]
fn the_program_starts_within_half_a_second_of_its_agents_pod() {
    let space = Space::alone();
    space.shop(1);
    // What the machine is busy with meanwhile is none of ours.
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(overhead(&space));
        space.agents_gone();
    }
    times.sort();
    assert!(times[0] <= OVERHEAD && times[1] <= 2 * OVERHEAD, "{times:?}");
}

#[test]
fn an_agent_with_one_session_takes_less_than_20_mib() {
    let space = Space::alone();
    space.shop(1);
    let others = space.others("shop", 8);
    let session = Exec::steal_mine(&space, "deployment/shop").option(&format!("-p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]));
    let agent = space.agents().remove(0);
    let container = agent.containers.iter().find(|container| container.name == "mirrord-agent").unwrap();
    let still = container.memory();
    for _ in 0..50 {
        assert!(space.ask("shop", "/", &[ME]).starts_with("program app"));
    }
    others.wait_for(1000);
    let busy = container.memory();
    let resident: u64 = container.processes().into_iter().map(Process::memory).sum();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "agent's container: {:.1} MiB at the start of the session, {:.1} MiB under load; its processes' resident memory, shared pages twice: {:.1} MiB",
        mib(still),
        mib(busy),
        mib(resident)
    );
    assert!(still.max(busy) <= MEMORY, "{still} and {busy} bytes");
    session.end();
    others.stop().assert_undisturbed(1000);
}
