//! `mirrord verify-config`: whether a config file is right, as editors ask before they start a program. What it prints is JSON, also
//! where the file is wrong, and then it ends with 0 all the same: the output says which.

use std::path::PathBuf;

use clap::Args;
use mirrord_config::{ClusterTarget, Config, ConfigError, File, Flags, Kind, Target, resolve};
use serde_json::{Map, Value, json};

use crate::{error::Error, exec, files, scope};

/// What may be a target, in the order in which editors show it.
const TARGETS: [&str; 9] = ["targetless", "pod", "deployment", "rollout", "job", "cronjob", "statefulset", "service", "replicaset"];

/// The command line.
#[derive(Args, Debug)]
pub struct Line {
    /// The config file: .json, .toml or .yaml
    #[arg(value_name = "FILE")]
    path: PathBuf,

    /// Whoever asks will let the user choose a target if the file has none
    #[arg(long)]
    ide: bool,

    /// Show what the file comes to, once templates are rendered and short forms written out; a config file again
    #[arg(long)]
    resolved: bool,
}

/// The answer.
pub fn verify(line: &Line, variable: impl Fn(&str) -> Option<String>) -> Value {
    match look(line, variable) {
        Ok(answer) => answer,
        Err(error) => json!({ "type": "Fail", "errors": [format!("{error} ({})", error.help())] }),
    }
}

fn look(line: &Line, variable: impl Fn(&str) -> Option<String>) -> Result<Value, Error> {
    let (text, format) = files::text(&line.path)?;
    let scope = scope::scope(None, &variable);
    let file = File::read(&text, format, &scope).map_err(ConfigError::from)?;
    let named = variable(resolve::TARGET_VARIABLE).or_else(|| file.target.clone());
    let instead = if line.ide { "pod/to-be-chosen" } else { "targetless" };
    // A program is no part of a config file.
    let flags = Flags { target: named.is_none().then(|| instead.into()), command: vec!["program".into()], ..Flags::default() };
    let config = Config::resolve(flags, &variable, file)?;
    let target = named.is_some().then_some(&config.target);
    let namespace = config.cluster.kube.namespace.as_deref();
    let mut answer = json!({
        "type": "Success",
        "config": { "path": target.map(path), "namespace": namespace },
        "warnings": config.warnings,
        "compatible_target_types": TARGETS,
    });
    if line.resolved {
        let rendered = File::rendered(&text, format, &scope).map_err(ConfigError::from)?;
        answer["resolved_config"] = resolved(rendered, target, &config);
    }
    Ok(answer)
}

/// As the object form of `target.path` has it.
fn path(target: &Target) -> Value {
    let target = match target {
        Target::Netns(name) => return json!({ "netns": name, "container": null }),
        Target::Pid(pid) => return json!({ "pid": pid, "container": null }),
        Target::Container(id) => return json!({ "container": id.to_string() }),
        Target::Cluster(target) => target,
    };
    match target {
        ClusterTarget::Targetless => json!("targetless"),
        ClusterTarget::Workload { kind, name, container } => json!({ key(*kind): name, "container": container }),
        ClusterTarget::Labels { labels, container } => {
            let labels: Map<_, _> = labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
            json!({ "labels": labels, "container": container })
        }
    }
}

fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::CronJob => "cron_job",
        Kind::StatefulSet => "stateful_set",
        Kind::DaemonSet => "daemon_set",
        Kind::ReplicaSet => "replica_set",
        Kind::Pod | Kind::Deployment | Kind::Rollout | Kind::Job | Kind::Service => kind.word(),
    }
}

/// The file with what variables have changed, and with its short forms written out.
fn resolved(mut file: Value, target: Option<&Target>, config: &Config) -> Value {
    drop_nulls(&mut file);
    let Value::Object(root) = &mut file else { return file };
    root.remove("$schema");
    if let Some(target) = target {
        // Those of this machine have no other form than the short one.
        let path = match target {
            Target::Cluster(ClusterTarget::Workload { .. } | ClusterTarget::Labels { .. }) => path(target),
            _ => json!(target.to_string()),
        };
        root.insert("target".into(), json!({ "path": path, "namespace": config.cluster.kube.namespace }));
    }
    within(root, "feature", |feature| {
        feature.insert("hostname".into(), json!(config.hostname));
        within(feature, "network", |network| {
            within(network, "incoming", |incoming| {
                incoming.insert("mode".into(), json!(exec::mode_name(config)));
            });
        });
    });
    drop_nulls(&mut file);
    file
}

/// Changes a section, which becomes an object, whatever short form stood there.
fn within(members: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut section = match members.remove(key) {
        Some(Value::Object(section)) => section,
        _ => Map::new(),
    };
    change(&mut section);
    members.insert(key.into(), Value::Object(section));
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
