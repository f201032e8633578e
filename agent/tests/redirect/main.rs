//! The redirect on real namespaces: a pod and a client joined by a veth pair, a real kernel, both iptables variants.
//!
//! Who answered is told by the first line that a client reads: "gw …" if its connection went through the gateway, which
//! then relays to the pod, or "pod …". Needs root; every namespace, process and rule goes when a test ends, also by panic.

#![allow(clippy::unwrap_used, clippy::expect_used)] // also the helpers of tests are tests

mod net;
mod roles;

use mirrord_agent::{
    netns::NetNs,
    redirect::{Options, RedirectError, Redirector, iptables::Variant},
};
use net::{CLIENT_V4, CLIENT_V6, Everything, Net, POD_V4, POD_V6, Talk, eventually};
use roles::{Agent, Running, gateway, options, role};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

#[test]
#[ignore = "not a test: this binary started as the guard"]
fn role_guard() {
    // The harness runs this on a thread; the guard's end is the process's.
    std::process::exit(if mirrord_agent::guard::run() == std::process::ExitCode::SUCCESS { 0 } else { 1 });
}

#[test]
#[ignore = "not a test: this binary started as an agent, to be killed"]
fn role_agent() {
    let Ok(path) = std::env::var("MRD_TEST_NETNS") else { return };
    let ns = NetNs::open(path).unwrap();
    let (port, connector) = gateway(&ns);
    let mut options = options();
    options.variant = std::env::var("MRD_TEST_LEGACY").is_ok().then_some(Variant::Legacy);
    options.remove_files.extend(std::env::var_os("MRD_TEST_SOCKET").map(Into::into));
    let mut redirector = Redirector::start(&ns, port, options).unwrap();
    connector.send(redirector.pod_connector()).unwrap();
    redirector.set_ports(&BTreeSet::from([80])).unwrap();
    println!("ready {}", redirector.guard_pid().unwrap().unwrap());
    let _ = std::io::stdin().read(&mut [0]);
    redirector.finish().unwrap();
    // Nobody reads the harness's summary.
    std::process::exit(0);
}

/// A redirector in this process, with its gateway.
fn redirecting(net: &Net, options: Options, ports: &[u16]) -> Redirector {
    let (port, connector) = gateway(&net.pod);
    let mut redirector = Redirector::start(&net.pod, port, options).unwrap();
    connector.send(redirector.pod_connector()).unwrap();
    redirector.set_ports(&ports.iter().copied().collect()).unwrap();
    redirector
}

fn none() -> BTreeSet<u16> {
    BTreeSet::new()
}

#[test]
fn connections_to_the_port_reach_the_gateway_from_everywhere_and_others_do_not() {
    let net = Net::new();
    [80, 81].into_iter().for_each(|port| net.serve(&net.pod, port));
    net.serve(&net.client, 80);
    let before = net.everything();
    for variant in [Variant::Nft, Variant::Legacy] {
        let redirector = redirecting(&net, Options { variant: Some(variant), ..options() }, &[80]);
        for (from, to) in [
            (&net.client, format!("{POD_V4}:80")),
            (&net.client, format!("[{POD_V6}]:80")),
            (&net.pod, format!("{POD_V4}:80")),
            (&net.pod, format!("[{POD_V6}]:80")),
            (&net.pod, "127.0.0.1:80".into()),
            (&net.pod, "[::1]:80".into()),
        ] {
            let mut talk = net.dial(from, &to).unwrap();
            assert_eq!(talk.line(), format!("gw {to}"), "{variant:?}");
            let (seen, own) = (talk.pod_sees().unwrap(), talk.own());
            assert_eq!(seen.ip(), own.ip(), "{variant:?} {to}: the client's own address");
            // Only a client in the pod has its port in use there.
            assert_eq!(seen == own, std::ptr::eq(from, &net.client), "{variant:?} {to}: {seen} {own}");
            talk.echoes("hello");
        }
        // Another port of the pod's, and the same port of somebody else's that the pod calls.
        for (from, to) in
            [(&net.client, format!("{POD_V4}:81")), (&net.pod, format!("{CLIENT_V4}:80")), (&net.pod, format!("[{CLIENT_V6}]:80"))]
        {
            let mut talk = net.dial(from, to).unwrap();
            assert_eq!(talk.pod_sees(), Some(talk.own()));
        }
        redirector.finish().unwrap();
        assert_eq!(net.everything(), before, "{variant:?}");
        let mut talk = net.client_dials(format!("{POD_V4}:80"));
        assert_eq!(talk.pod_sees(), Some(talk.own()));
    }
}

#[test]
fn open_connections_stay_with_the_pod_at_the_start_and_redirected_ones_live_on_at_the_end() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    for variant in [Variant::Nft, Variant::Legacy] {
        let targets = [format!("{POD_V4}:80"), format!("[{POD_V6}]:80")];
        let mut old: Vec<Talk> = targets.iter().map(|to| net.client_dials(to)).collect();
        old.iter_mut().for_each(|talk| assert!(talk.line().starts_with("pod ")));
        let before = net.everything();
        let mut redirector = redirecting(&net, Options { variant: Some(variant), ..options() }, &[80]);
        old.iter_mut().for_each(|talk| talk.echoes("still here"));
        let mut redirected: Vec<Talk> = targets.iter().map(|to| net.client_dials(to)).collect();
        for talk in &mut redirected {
            assert!(talk.line().starts_with("gw "));
            assert!(talk.line().starts_with("pod "));
        }
        redirector.set_ports(&none()).unwrap();
        assert!(net.client_dials(&targets[0]).line().starts_with("pod "), "new connections go to the pod");
        assert!(net.client_dials(&targets[1]).line().starts_with("pod "));
        assert!(!redirector.settle().unwrap(), "two are in flight");
        assert_eq!(redirector.in_flight().unwrap(), 2);
        redirected.iter_mut().for_each(|talk| talk.echoes("in flight"));
        // And back again: the same rules take up from the draining ones.
        redirector.set_ports(&BTreeSet::from([80])).unwrap();
        assert!(net.client_dials(&targets[0]).line().starts_with("gw "));
        redirector.set_ports(&none()).unwrap();
        redirected.iter_mut().for_each(|talk| talk.echoes("still in flight"));
        drop(redirected);
        eventually("the rules go with the last connection", || redirector.settle().unwrap());
        assert!(net.rules().keys().all(|table| !table.ends_with(" nat")), "{:?}", net.rules());
        old.iter_mut().for_each(|talk| talk.echoes("still here at the end"));
        redirector.finish().unwrap();
        assert_eq!(net.everything(), before);
    }
}

#[test]
fn other_peoples_rules_stay_as_they_are_and_in_effect() {
    let net = Net::new();
    [80, 81, 15006].into_iter().for_each(|port| net.serve(&net.pod, port));
    for (variant, suffix) in [(Variant::Nft, "nft"), (Variant::Legacy, "legacy")] {
        for tool in [format!("iptables-{suffix}"), format!("ip6tables-{suffix}")] {
            for rule in [
                "-N ISTIO_INBOUND",
                "-N ISTIO_IN_REDIRECT",
                "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
                "-A ISTIO_INBOUND -p tcp --dport 15006 -j RETURN",
                "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
                "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            ] {
                let args: Vec<&str> = ["-t", "nat"].into_iter().chain(rule.split(' ')).collect();
                net.in_pod(&tool, &args);
            }
        }
        let before = net.everything();
        assert!(before.0.values().flatten().any(|rule| rule.contains("ISTIO_INBOUND")));
        // Not told which variant: it finds the one with rules.
        let redirector = redirecting(&net, options(), &[80]);
        let listing = net.in_pod(&format!("iptables-{suffix}"), &["-t", "nat", "-S", "PREROUTING"]);
        assert!(listing.lines().last().unwrap().contains("MIRRORD_REDIRECT"), "ours come last: {listing}");
        // Nobody listens on 82: it is answered by what listens on 15006, the sidecar. So is what we redirect.
        for to in [80, 82].into_iter().flat_map(|port| [format!("{POD_V4}:{port}"), format!("[{POD_V6}]:{port}")]) {
            assert!(net.client_dials(to).line().starts_with("pod sees "), "{variant:?}");
        }
        // What the sidecar then hands to the pod's process is ours.
        assert_eq!(net.dial(&net.pod, format!("{POD_V4}:80")).unwrap().line(), format!("gw {POD_V4}:80"), "{variant:?}");
        assert!(net.dial(&net.pod, format!("{POD_V4}:81")).unwrap().line().starts_with("pod sees "), "{variant:?}");
        redirector.finish().unwrap();
        assert_eq!(net.everything(), before);
        for tool in [format!("iptables-{suffix}"), format!("ip6tables-{suffix}")] {
            net.in_pod(&tool, &["-t", "nat", "-F"]);
            net.in_pod(&tool, &["-t", "nat", "-X"]);
        }
    }
}

#[test]
fn when_the_agent_is_killed_its_guard_gives_everything_back() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let before = net.everything();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    std::fs::write(&socket, "").unwrap();
    let mut agent = Agent::start(&net, &socket);
    assert!(net.client_dials(format!("{POD_V4}:80")).line().starts_with("gw "));

    let killed = agent.kill();
    let served = eventually("new connections are served by the pod", || {
        net.dial(&net.client, format!("{POD_V4}:80")).is_ok_and(|mut talk| talk.pod_sees().is_some())
    });
    eventually("the guard has done its work", || !agent.guard_runs());
    let gone = killed.elapsed();
    println!("agent killed: new connections served after {served:?}, everything undone after {gone:?}");
    assert!(served < Duration::from_millis(200), "{served:?}");
    // Other programs' share of the machine is in this; what matters to clients is the line above.
    assert!(gone < Duration::from_millis(500), "{gone:?}");
    assert_eq!(net.everything(), before);
    assert!(!socket.exists());
}

#[test]
fn when_agent_and_guard_are_killed_the_lease_ends_and_the_next_agent_cleans_up() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let before = net.everything();
    // The next agent uses nft, and finds what is left in whichever variant.
    for wrapper in [&[][..], &["env", "MRD_TEST_LEGACY=1"]] {
        killed_with_its_guard(&net, wrapper, &before);
    }
}

fn killed_with_its_guard(net: &Net, wrapper: &[&str], before: &Everything) {
    let mut agent = Agent::start_as(wrapper, net, "/nonexistent".as_ref());
    let targets = [format!("{POD_V4}:80"), format!("[{POD_V6}]:80")];
    targets.iter().for_each(|to| assert!(net.client_dials(to).line().starts_with("gw ")));

    let killed = agent.kill_with_guard();
    for to in &targets {
        eventually("new connections are served by the pod", || net.dial(&net.client, to).is_ok_and(|mut talk| talk.pod_sees().is_some()));
    }
    let served = killed.elapsed();
    println!("agent and guard killed: new connections served after {served:?}");
    assert!(served < Duration::from_millis(1200), "{served:?}");
    assert_ne!(net.everything(), *before, "nobody is left to remove the rules");

    let redirector = redirecting(net, Options { variant: Some(Variant::Nft), ..options() }, &[80]);
    targets.iter().for_each(|to| assert!(net.client_dials(to).line().starts_with("gw ")));
    redirector.finish().unwrap();
    assert_eq!(net.everything(), *before);
}

#[test]
fn an_agent_that_ends_well_lets_its_guard_go_at_once() {
    let net = Net::new();
    let before = net.everything();
    let agent = Agent::start(&net, "/nonexistent".as_ref());
    let guard = agent.guard;
    agent.finish();
    assert!(!std::path::Path::new(&format!("/proc/{guard}")).exists());
    assert_eq!(net.everything(), before);
}

#[test]
fn a_redirector_that_is_dropped_cleans_up() {
    let net = Net::new();
    let before = net.everything();
    drop(redirecting(&net, options(), &[80]));
    assert_eq!(net.everything(), before);
}

#[test]
fn others_notice_nothing_of_start_and_end() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let stop = Arc::new(AtomicBool::new(false));
    let exchanges = Arc::new(AtomicU32::new(0));
    let targets = [format!("{POD_V4}:80"), format!("[{POD_V6}]:80")];
    // Some keep a connection and talk on it, some make new ones all the time.
    let clients: Vec<_> = (0..16)
        .map(|n| {
            let to: SocketAddr = targets[n % 2].parse().unwrap();
            let (stop, exchanges) = (stop.clone(), exchanges.clone());
            let work = move || {
                let (mut done, mut kept) = (0u32, None);
                while !stop.load(Ordering::Relaxed) {
                    let talk = kept.get_or_insert_with(|| Talk::dial(to).map(Talk::greeted).expect("connects"));
                    talk.echoes("ping");
                    done += 1;
                    exchanges.fetch_add(1, Ordering::Relaxed);
                    if n < 8 || done.is_multiple_of(200) {
                        kept = None;
                    }
                }
                done
            };
            net.client.spawn("client", work).unwrap()
        })
        .collect();
    let (port, connector) = gateway(&net.pod);
    let mut redirector = Redirector::start(&net.pod, port, options()).unwrap();
    connector.send(redirector.pod_connector()).unwrap();
    for _ in 0..5 {
        for ports in [BTreeSet::from([80]), none()] {
            redirector.set_ports(&ports).unwrap();
            let before = exchanges.load(Ordering::Relaxed);
            eventually("traffic goes on", || exchanges.load(Ordering::Relaxed) > before + 3000);
        }
    }
    eventually("what was redirected has ended", || redirector.settle().unwrap());
    redirector.finish().unwrap();
    stop.store(true, Ordering::Relaxed);
    // A client that met a refusal, a reset or silence has panicked.
    let done: Vec<u32> = clients.into_iter().map(|client| client.join().unwrap().unwrap()).collect();
    println!("{} exchanges, none disturbed", done.iter().sum::<u32>());
    assert!(done.iter().all(|&done| done > 0), "{done:?}");
}

#[test]
fn a_pod_that_does_not_listen_refuses_as_it_would_without_us() {
    let net = Net::new();
    let redirector = redirecting(&net, options(), &[80]);
    for to in [format!("{POD_V4}:80"), format!("[{POD_V6}]:80")] {
        for from in [&net.client, &net.pod] {
            let start = Instant::now();
            let mut talk = net.dial(from, &to).unwrap();
            assert_eq!((talk.line(), talk.line()), (format!("gw {to}"), "no pod: Connection refused (os error 111)".into()));
            assert!(start.elapsed() < Duration::from_millis(500));
        }
    }
    redirector.finish().unwrap();
}

#[test]
fn a_stopped_agent_loses_its_lease_and_gets_it_back() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let agent = Agent::start(&net, "/nonexistent".as_ref());
    let to = format!("{POD_V4}:80");
    assert!(net.client_dials(&to).line().starts_with("gw "));
    agent.signal(libc::SIGSTOP);
    // A connection that still reached the stopped gateway would have to wait for it; short patience, then once more.
    eventually("new connections go to the pod", || {
        let to: SocketAddr = to.parse().unwrap();
        net.within(&net.client, move || {
            let mut talk = Talk::dial(to).unwrap();
            talk.0.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut line = String::new();
            talk.0.read_line(&mut line).is_ok() && line.starts_with("pod ")
        })
    });
    agent.signal(libc::SIGCONT);
    eventually("they are redirected again", || net.client_dials(&to).line().starts_with("gw "));
    agent.finish();
}

#[test]
fn nginx_logs_the_clients_address() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let config = format!(
        "daemon off; master_process off; error_log {path}/error; pid {path}/pid; events {{}}
         http {{ log_format who '$remote_addr $remote_port'; access_log {path}/access who;
                 server {{ listen 80; listen [::]:80; location / {{ return 200 hello; }} }} }}"
    );
    std::fs::write(folder.path().join("conf"), config).unwrap();
    let net_option = format!("--net=/run/netns/{}-pod", net.name);
    let mut nginx = Command::new("nsenter");
    nginx.args([&net_option, "nginx", "-p", &path, "-c", &format!("{path}/conf")]).stderr(Stdio::null());
    let _nginx = Running(nginx.spawn().unwrap());
    eventually("nginx listens", || net.dial(&net.pod, "[::1]:80").is_ok() && net.dial(&net.pod, "127.0.0.1:80").is_ok());
    let redirector = redirecting(&net, options(), &[80]);
    for (from, to) in [
        (&net.client, format!("{POD_V4}:80")),
        (&net.client, format!("[{POD_V6}]:80")),
        (&net.pod, "127.0.0.1:80".to_owned()),
        (&net.pod, "[::1]:80".to_owned()),
        (&net.pod, format!("{POD_V4}:80")),
    ] {
        let mut talk = net.dial(from, &to).unwrap();
        assert_eq!(talk.line(), format!("gw {to}"));
        talk.0.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        talk.0.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        let log = std::fs::read_to_string(folder.path().join("access")).unwrap();
        let (address, port) = log.lines().last().unwrap().split_once(' ').unwrap();
        assert_eq!(address, talk.own().ip().to_string(), "{to}");
        assert!(std::ptr::eq(from, &net.pod) || port == talk.own().port().to_string());
    }
    redirector.finish().unwrap();
}

#[test]
fn a_second_connection_for_the_same_client_has_its_address_and_another_port() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let redirector = redirecting(&net, options(), &[80]);
    let connector = redirector.pod_connector();
    for (pod, client) in [(POD_V4, "192.0.2.9"), (POD_V6, "2001:db8::9")] {
        let client = SocketAddr::new(client.parse().unwrap(), 40_000);
        let seen = net.within(&net.pod, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let connect = || connector.connect(SocketAddr::new(pod.parse().unwrap(), 80), client);
            let two = runtime.block_on(async { [connect().await.unwrap(), connect().await.unwrap()] });
            two.map(|stream| {
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                Talk(BufReader::new(stream)).pod_sees().unwrap()
            })
        });
        assert_eq!(seen[0], client);
        assert_eq!(seen[1].ip(), client.ip());
        assert_ne!(seen[1].port(), client.port());
    }
    redirector.finish().unwrap();
}

#[test]
fn a_pod_with_one_listener_for_both_families_sees_its_clients() {
    let net = Net::new();
    net.serve_both_families(&net.pod, 80);
    let redirector = redirecting(&net, options(), &[80]);
    for to in [format!("{POD_V4}:80"), format!("[{POD_V6}]:80")] {
        let mut talk = net.client_dials(&to);
        assert_eq!(talk.line(), format!("gw {to}"));
        assert_eq!(talk.pod_sees(), Some(talk.own()));
        talk.echoes("hello");
    }
    redirector.finish().unwrap();
}

#[test]
fn without_ipv6_in_the_pod_ipv4_is_redirected() {
    let net = Net::new();
    net.in_pod("sysctl", &["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"]);
    net.serve(&net.pod, 80);
    let before = net.everything();
    let redirector = redirecting(&net, options(), &[80]);
    let mut talk = net.client_dials(format!("{POD_V4}:80"));
    assert!(talk.line().starts_with("gw "));
    assert_eq!(talk.pod_sees(), Some(talk.own()));
    redirector.finish().unwrap();
    assert_eq!(net.everything(), before);
}

#[test]
fn where_other_rules_use_marks_the_pod_sees_its_own_address() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    net.in_pod("iptables", &["-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "-j", "MARK", "--set-mark", "0x539"]);
    let before = net.everything();
    let redirector = redirecting(&net, options(), &[80]);
    for (to, own) in [(format!("{POD_V4}:80"), POD_V4), (format!("[{POD_V6}]:80"), POD_V6)] {
        let mut talk = net.client_dials(to);
        assert!(talk.line().starts_with("gw "));
        assert_eq!(talk.pod_sees().unwrap().ip().to_string(), own);
    }
    redirector.finish().unwrap();
    assert_eq!(net.everything(), before);
}

#[test]
fn what_is_missing_is_named() {
    let net = Net::new();
    let before = net.everything();
    let agent = |wrapper: &[&str]| {
        let exe = role("agent");
        let all = wrapper.iter().map(OsString::from).chain(exe);
        let all: Vec<OsString> = all.collect();
        let output =
            Command::new(&all[0]).args(&all[1..]).env("MRD_TEST_NETNS", net.pod.path()).env_remove("RUST_BACKTRACE").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // No namespace may be entered; then: entered, but nothing changed in it.
    let said = agent(&["setpriv", "--bounding-set", "-sys_admin"]);
    assert!(said.contains("Privilege"), "{said}");
    let said = agent(&["nsenter", &format!("--net={}", net.pod.path().display()), "setpriv", "--bounding-set", "-net_admin"]);
    assert!(said.contains("Privilege"), "{said}");
    // A machine without iptables: an empty folder over the one where it lives.
    let hide = "mount -t tmpfs none /usr/sbin && exec \"$@\"";
    let said = agent(&["unshare", "-m", "sh", "-c", hide, "sh"]);
    assert!(said.contains("ToolMissing"), "{said}");
    assert_eq!(net.everything(), before);
}

#[test]
fn in_a_container_with_read_only_sysctls_the_pod_still_sees_its_clients() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let before = net.everything();
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\"";
    let mut agent = Agent::start_as(&["unshare", "-m", "sh", "-c", read_only, "sh"], &net, "/nonexistent".as_ref());
    let mut talk = net.client_dials(format!("{POD_V4}:80"));
    assert!(talk.line().starts_with("gw "));
    assert_eq!(talk.pod_sees(), Some(talk.own()));
    agent.kill();
    eventually("the guard has done its work there", || !agent.guard_runs());
    assert_eq!(net.everything(), before);
}

#[test]
fn whoever_dials_the_gateways_own_port_is_recognised() {
    let net = Net::new();
    net.serve(&net.pod, 80);
    let (port, connector) = gateway(&net.pod);
    // Before anything is redirected, conntrack is off; after, it knows the connection by its own address.
    let mut redirector = Redirector::start(&net.pod, port, options()).unwrap();
    connector.send(redirector.pod_connector()).unwrap();
    for ports in [none(), BTreeSet::from([80])] {
        redirector.set_ports(&ports).unwrap();
        for to in [format!("{POD_V4}:{port}"), format!("[{POD_V6}]:{port}")] {
            assert_eq!(net.client_dials(to).line(), "", "closed without a word");
        }
    }
    assert!(matches!(redirector.set_ports(&BTreeSet::from([port])), Err(RedirectError::Port(..))));
    redirector.finish().unwrap();
}

#[test]
fn what_the_calls_take() {
    let net = Net::new();
    for variant in [Variant::Nft, Variant::Legacy] {
        let clock = Instant::now();
        let mut redirector = Redirector::start(&net.pod, 1, Options { variant: Some(variant), ..options() }).unwrap();
        let started = clock.elapsed();
        redirector.set_ports(&BTreeSet::from([80])).unwrap();
        let first = clock.elapsed() - started;
        redirector.set_ports(&BTreeSet::from([80, 81])).unwrap();
        let second = clock.elapsed() - started - first;
        redirector.finish().unwrap();
        let all = clock.elapsed();
        println!("{variant:?}: start {started:?}, first port {first:?}, next port {second:?}, finish {:?}", all - started - first - second);
        // Each change waits for the kernel (RCU), which on a machine at its limit takes a second; nobody waits for it.
        assert!(all < Duration::from_secs(20), "{all:?}");
    }
}

#[test]
fn a_second_agent_in_the_namespace_is_refused() {
    let net = Net::new();
    let redirector = Redirector::start(&net.pod, 1, options()).unwrap();
    assert!(matches!(Redirector::start(&net.pod, 1, options()), Err(RedirectError::AnotherAgent)));
    redirector.finish().unwrap();
    Redirector::start(&net.pod, 1, options()).unwrap().finish().unwrap();
}
