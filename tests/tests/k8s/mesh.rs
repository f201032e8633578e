//! In a mesh the pod's traffic goes by way of its sidecar, and still does with a session: the sidecar's rules come first.

use std::net::IpAddr;

use mirrord_tests::{
    cluster::{Exec, Space},
    load::Others,
    programs::Program,
    session::ME,
    state::{Snapshot, rules},
};

/// The program's port, which stands for the pods' port 80.
const LOCAL: u16 = 18080;

#[test]
fn istios_rules_stay_in_effect_and_what_the_sidecar_lets_through_is_stolen() {
    let space = Space::alone();
    space.apply(&Space::manifest("mesh"));
    space.shop(1);
    space.rolled_out("deployment/meshed");
    let address = space.service("meshed", 80);
    space.reachable(&space.client(), address);
    let pod = space.pods("app=meshed").remove(0);
    let before = Snapshot::of(&pod.network());
    let of_istio = || {
        let all = ["iptables", "ip6tables"].map(|family| rules(&pod.network(), family));
        all.concat().into_iter().filter(|rule| rule.contains("ISTIO_")).collect::<Vec<_>>()
    };
    let istio = of_istio();
    assert!(istio.len() > 15, "{istio:?}");

    let others = Others::start(&space.client(), &[address], 4, &[]);
    let session = Exec::steal_mine(&space, "deployment/meshed").option(&format!("-p 80:{LOCAL}")).run(&Program::python("app", &[LOCAL]));
    assert_eq!(of_istio(), istio);
    for ask in 0..10 {
        let path = format!("/meshed/{ask}");
        assert!(space.ask("meshed", &path, &[ME]).starts_with("program app"));
        assert_eq!(space.ask("meshed", &path, &[]), format!("pod {} GET {path}\n", pod.name));
    }
    // All came by way of the sidecar: its address is what the pod sees in such a mesh, with a session as without.
    let seen = space.kubectl("logs deployment/meshed -c shop");
    let theirs: Vec<_> = seen.lines().filter(|line| line.contains(" /meshed/")).collect();
    assert!(theirs.len() == 10 && theirs.iter().all(|line| line.contains("from=::ffff:127.0.0.6 ")), "{theirs:?}");
    let mine = session.seen();
    let sidecar: IpAddr = "127.0.0.6".parse().unwrap();
    assert!(mine.len() == 10 && mine.iter().all(|seen| seen.user == "me" && seen.peer == sidecar), "{mine:?}");
    session.end();
    others.wait_for(50);
    others.stop().assert_undisturbed(300);
    space.agents_gone();
    let after = Snapshot::of(&pod.network());
    assert!(before.difference(&after).is_empty(), "{}", before.difference(&after));
}
