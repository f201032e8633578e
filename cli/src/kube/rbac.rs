//! `mirrord rbac`: the least that a user must be allowed, as Roles to give to `kubectl apply`.

use clap::Args;

/// The command line.
#[derive(Args, Debug)]
pub struct Line {
    /// Namespace of the targets
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,

    /// Namespace of the agents; one of their own keeps their keys apart from other Secrets. Else that of the targets
    #[arg(short = 'a', long, value_name = "NAMESPACE")]
    agent_namespace: Option<String>,

    /// The group that gets the rights
    #[arg(short = 'g', long, value_name = "GROUP", default_value = "developers")]
    group: String,

    /// Agents may also be ephemeral containers of the targets' pods
    #[arg(short = 'e', long)]
    ephemeral_container: bool,
}

/// API group, resources, verbs, what for.
pub type Rule = (&'static str, &'static [&'static str], &'static [&'static str], &'static str);

/// In the targets' namespace.
pub const TARGETS: &[Rule] = &[
    ("", &["pods"], &["get", "list"], "find the target's pods, and follow them"),
    ("", &["services"], &["get", "list"], "targets service/NAME"),
    ("apps", &["deployments", "statefulsets", "daemonsets", "replicasets"], &["get", "list"], "targets of these kinds"),
    ("batch", &["jobs", "cronjobs"], &["get", "list"], "targets of these kinds"),
    ("argoproj.io", &["rollouts"], &["get", "list"], "targets rollout/NAME"),
];

/// In the agents' namespace.
pub const AGENTS: &[Rule] = &[
    ("batch", &["jobs"], &["get", "create", "delete"], "an agent is a Job"),
    ("", &["secrets"], &["get", "create"], "its keys; whoever may get them may use the agent"),
    ("", &["pods"], &["get", "list"], "see it start"),
    ("", &["pods/log"], &["get"], "say why it did not"),
    ("", &["pods/portforward"], &["get", "create"], "reach it"),
    ("", &["events"], &["list"], "say why it has no pod"),
];

/// In the targets' namespace, for agents that are containers of their pods.
const GUESTS: &[Rule] = &[
    ("", &["pods/ephemeralcontainers"], &["patch"], "put the agent into the pod"),
    ("", &["secrets"], &["get", "create", "delete"], "its keys; note that this is for all Secrets there"),
    ("", &["pods/log"], &["get"], "say why it did not start"),
    ("", &["pods/portforward"], &["get", "create"], "reach it"),
];

impl Line {
    /// The objects as YAML.
    pub fn text(&self) -> String {
        let agents = self.agent_namespace.as_ref().unwrap_or(&self.namespace);
        let mut text = role("mirrord-targets", &self.namespace, TARGETS);
        text += &binding("mirrord-targets", &self.namespace, &self.group);
        if self.ephemeral_container {
            text += &role("mirrord-guests", &self.namespace, GUESTS);
            text += &binding("mirrord-guests", &self.namespace, &self.group);
        }
        text += &role("mirrord-agents", agents, AGENTS);
        text + &binding("mirrord-agents", agents, &self.group)
    }
}

fn role(name: &str, namespace: &str, rules: &[Rule]) -> String {
    let mut text =
        format!("---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: {name}\n  namespace: {namespace}\nrules:\n");
    for (group, resources, verbs, what) in rules {
        let list = |words: &[&str]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        text += &format!("  # {what}\n  - apiGroups: [\"{group}\"]\n    resources: [{}]\n    verbs: [{}]\n", list(resources), list(verbs));
    }
    text
}

fn binding(name: &str, namespace: &str, group: &str) -> String {
    format!(
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
         roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: {name}\n\
         subjects:\n  - apiGroup: rbac.authorization.k8s.io\n    kind: Group\n    name: {group}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_grants_what_is_listed_where_it_is_needed() {
        let line =
            Line { namespace: "shop".into(), agent_namespace: Some("tools".into()), group: "team".into(), ephemeral_container: false };
        let text = line.text();
        let documents: Vec<&str> = text.split("---\n").skip(1).collect();
        assert_eq!(documents.len(), 4);
        assert!(documents[0].contains("namespace: shop") && documents[0].contains("\"deployments\""));
        assert!(documents[2].contains("namespace: tools") && documents[2].contains("verbs: [\"get\", \"create\", \"delete\"]"));
        assert!(documents[3].contains("name: team"));
        let with_guests = Line { ephemeral_container: true, ..line }.text();
        assert!(with_guests.contains("pods/ephemeralcontainers") && with_guests.contains("name: mirrord-guests\n  namespace: shop"));
        // Nobody needs the others' Secrets in the namespace of the targets.
        assert!(!documents[0].contains("secrets"));
    }
}
