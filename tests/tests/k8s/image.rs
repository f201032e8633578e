//! The agent's image: what is in it, and that it runs on containerd.

use std::{
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use mirrord_tests::{
    cluster::{Space, agent_image, on_node, try_on_node},
    machine::{built, run},
};

/// Runs a program of the image in a container with a network of its own, with the right to change that.
fn in_image(program: &[&str]) -> Result<String, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (image, id) =
        (format!("docker.io/library/{}", agent_image()), format!("image-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    // Among the pods' cgroups, so that it goes with them.
    let group = format!("/kubepods/{id}");
    let mut words = vec!["ctr", "-n", "k8s.io", "run", "--rm", "--cap-add", "CAP_NET_ADMIN", "--cgroup", &group, &image, &id];
    words.extend(program);
    try_on_node(&words)
}

#[test]
fn the_image_holds_the_agent_and_the_firewall_and_no_shell() {
    let root = tempfile::tempdir().unwrap();
    let archive = built().parent().unwrap().join("images/agent.tar");
    let _space = Space::new();
    run(Command::new("tar").args(["-xf", archive.to_str().unwrap(), "-C", root.path().to_str().unwrap()]));
    let layer = run(Command::new("find").arg(root.path()).args(["-name", "layer.tar"]));
    let list = run(Command::new("tar").args(["-tvf", layer.trim()]));
    let files: Vec<_> = list.lines().filter(|line| !line.starts_with('d')).collect();
    let programs: Vec<_> = files
        .iter()
        .filter(|line| line.starts_with('-') && ["/bin/", "/sbin/"].iter().any(|folder| line.contains(folder)))
        .filter_map(|line| line.rsplit('/').next())
        .collect();
    assert_eq!({ programs.clone() }.len(), 4, "{programs:?}");
    for wanted in ["mirrord-agent", "nft", "xtables-legacy-multi", "xtables-nft-multi"] {
        assert!(programs.contains(&wanted), "{wanted} is not among {programs:?}");
    }
    // Whatever else is a file is a library or a plugin of the firewall.
    let others: Vec<_> = files.iter().filter(|line| line.starts_with('-') && !line.contains("bin/") && !line.contains(".so")).collect();
    assert!(others.is_empty(), "{others:?}");
    // Nothing is set-uid, and nobody but root may write.
    assert!(files.iter().all(|line| line.starts_with('l') || !line[..10].contains(['s', 'S']) && &line[8..9] != "w"), "{list}");
    let size: u64 = files.iter().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
    println!("image: {} files, {:.1} MiB", files.len(), size as f64 / 1048576.0);
    assert!(size < 40 << 20, "{size} bytes");
}

#[test]
fn the_agent_runs_in_its_image_on_containerd() {
    let _space = Space::new();
    let version = in_image(&["/usr/local/bin/mirrord-agent", "--version"]).unwrap();
    assert_eq!(version.trim(), format!("mirrord-agent {}", env!("CARGO_PKG_VERSION")));
    assert!(on_node(&["ctr", "-n", "k8s.io", "images", "ls", "-q"]).contains(&agent_image()));
}

#[test]
fn both_variants_of_iptables_and_nft_work_in_the_image() {
    let _space = Space::new();
    for variant in ["iptables", "ip6tables", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--syn", "--dport", "80", "-m", "mark", "!", "--mark", "1"];
        let program = format!("/usr/sbin/{variant}");
        let words: Vec<_> = [program.as_str()].into_iter().chain(rule).chain(["-j", "REDIRECT", "--to-ports", "7777"]).collect();
        in_image(&words).unwrap_or_else(|error| panic!("{variant}: {error}"));
    }
    in_image(&["/usr/sbin/nft", "add table inet probe"]).unwrap();
    // The kernel is asked: what it does not know is refused.
    in_image(&["/usr/sbin/iptables", "-A", "NOWHERE", "-j", "ACCEPT"]).unwrap_err();
}
