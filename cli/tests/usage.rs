//! What a user can write wrongly: exit status 2, the next step, and nothing started.

mod common;

use common::Trial;

#[test]
fn every_wrong_command_line_is_refused_with_the_next_step() {
    let cases: &[(&str, &str, &str)] = &[
        ("exec -t netns/x", "no command", "mirrord exec -t netns/shop -- python3 app.py"),
        ("exec -t netns/x --", "no command", "--"),
        ("exec -- true", "no target", "-t netns/NAME"),
        ("exec -t shop -- true", "`shop` does not say what kind of target", "netns/shop"),
        ("exec -t vm/shop -- true", "`vm` is not a kind", "netns/NAME, pid/N, container/ID"),
        ("exec -t netns/ -- true", "no name", "ip netns"),
        ("exec -t netns/a/b -- true", "parts that mean nothing", "netns/NAME"),
        ("exec -t pid/0 -- true", "`0` is not a process id", "pid/4242"),
        ("exec -t container/ab -- true", "not a container id", "first 3 characters"),
        ("exec -t netns/x --steal --mirror -- true", "exclude each other", "--mirror (the default)"),
        ("exec -t netns/x -p 0 -- true", "port 0", "the target serves"),
        ("exec -t netns/x -p 80:0 -- true", "port 0", "the target serves"),
        ("exec -t netns/x -p http -- true", "`http` is not PORT", "-p 80:8080"),
        ("exec -t netns/x -p -1 -- true", "`-1` is not PORT", "1 to 65535"),
        ("exec -t netns/x -p 65536 -- true", "`65536` is not PORT", "1 to 65535"),
        ("exec -t netns/x -p 80 -p 80:81 -- true", "port 80 is given twice", "leave out one"),
        ("exec -t netns/x --filter-config {} -- true", "before any --filter", "--filter header.wasm"),
        ("exec -t netns/x --filter-config {} --filter a.wasm -- true", "before any --filter", "--filter header.wasm"),
        ("exec -t netns/x --filter a.wasm --filter-config {} --filter-config {} -- true", "a.wasm has two", "leave out one"),
        ("exec -t netns/x --filter a.wasm --filter-config @ -- true", "no file name", "@FILE"),
        ("exec -t netns/x --ambiguous drop -- true", "'drop'", "mirrord exec --help"),
        ("exec -t netns/x --priority high -- true", "'high'", "mirrord exec --help"),
        ("exec -t netns/x --nonsense -- true", "'--nonsense'", "mirrord exec --help"),
        ("exec -t netns/x python3 -u app.py", "'-u'", "put -- before the program"),
        ("exec -t", "--target", "mirrord exec --help"),
        ("execute", "'execute'", "mirrord exec --help"),
        ("port-forward -t netns/x", "neither -L nor -R", "-L 8080:shop:80"),
        ("port-forward -t netns/x -L 80:db:0", "-L `80:db:0`", "-L 5433:db:5432"),
        ("port-forward -t netns/x -R 80:80 -R 80:81", "port 80 is given twice", "leave out one"),
        ("port-forward -L 80:db:1", "no target", "-t netns/NAME"),
        ("inspect --nonsense", "'--nonsense'", "`mirrord inspect --help`"),
        ("filter build --nonsense", "'--nonsense'", "`mirrord filter --help`"),
    ];
    let trial = Trial::new();
    for (line, error, help) in cases {
        trial.run(&line.split(' ').collect::<Vec<_>>()).refused(2, error, help);
    }
}

#[test]
fn the_variables_count_where_a_flag_is_missing() {
    let mut trial = Trial::new();
    trial.set("MIRRORD_IMPERSONATED_TARGET", "netns/from-variable").set("MIRRORD_AGENT_TCP_STEAL_TRAFFIC", "1");
    trial.run(&["exec", "--", "true"]).refused(2, "MIRRORD_AGENT_TCP_STEAL_TRAFFIC is `1`", "steal or mirror");
    trial.run(&["exec", "--mirror", "--", "true"]).refused(1, "`from-variable`", "");
    trial.run(&["exec", "--mirror", "-t", "netns/from-flag", "--", "true"]).refused(1, "`from-flag`", "");
}

#[test]
fn a_config_files_templates_see_the_environment_and_what_they_lack_is_said() {
    let mut trial = Trial::new();
    let file = trial.file("mirrord.yaml", "target: netns/{{ get_env(name='A_SHOP') }}-{{ key }}\nkey: file\n", 0o644);
    let file = file.to_str().unwrap();
    trial.run(&["exec", "-f", file, "--", "true"]).refused(1, "the variable A_SHOP is not set", "default=");
    trial.set("A_SHOP", "cart");
    trial.run(&["exec", "-f", file, "--", "true"]).refused(1, "`cart-file`", "");
    trial.set("MIRRORD_KEY", "variable");
    trial.run(&["exec", "-f", file, "--", "true"]).refused(1, "`cart-variable`", "");
    trial.run(&["exec", "-f", file, "-k", "flag", "--", "true"]).refused(1, "`cart-flag`", "");
    let open = trial.file("open.toml", "target = \"netns/{{ key \"\n", 0o644);
    trial.run(&["exec", "-f", open.to_str().unwrap(), "--", "true"]).refused(1, "a template in line 1", "get_env");
}

#[test]
fn help_and_version_are_on_standard_output() {
    let trial = Trial::new();
    let help = trial.run(&["exec", "--help"]);
    assert_eq!((help.status, help.stderr.as_str()), (Some(0), ""));
    for part in ["Examples:", "--target", "--steal", "--filter-config", "--ambiguous", "netns/NAME"] {
        assert!(help.stdout.contains(part), "{part} is not in {}", help.stdout);
    }
    assert!(!trial.run(&["--help"]).stdout.contains("intproxy"), "an inner command is not the user's");
    assert_eq!(trial.run(&["--version"]).stdout, concat!("mirrord ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(trial.run(&[]).status, Some(2));
}
