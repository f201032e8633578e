//! What goes wrong in a cluster, in the user's words, with the next step.

use mirrord_protocol::control::ErrorReply;
use thiserror::Error;

/// Why there is no agent for a target in a cluster.
#[derive(Debug, Error)]
pub enum KubeError {
    #[error("the kubeconfig cannot be used: {0}")]
    Config(String),
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    #[error("you are not allowed to {what}: {message}")]
    Forbidden { what: String, message: String },
    #[error("the cluster refuses to {what}: {message}")]
    Refused { what: String, message: String, help: &'static str },
    #[error("there is no {kind} `{name}` in the namespace `{namespace}`")]
    NoSuch { kind: &'static str, name: String, namespace: String },
    #[error("{target} has no pod that could be used: {why}")]
    NoPod { target: String, why: String },
    #[error("the pod {pod} has no container `{name}`")]
    NoContainer { pod: String, name: String, known: String },
    #[error("the pod {0} is on its node's own network, where the traffic of the whole node would be redirected")]
    HostNetwork(String),
    #[error("`{0}` is no kind of target that could be listed")]
    NoKind(String),
    #[error("nobody has a session on {0}")]
    NoSession(String),
    #[error("the agent's pod does not start: {why}")]
    Start { why: String, help: String },
    #[error("the agent cannot be a container of the target's pod: {why}")]
    NoGuests { why: String, help: &'static str },
    #[error("the agent was not ready within {seconds} s; last seen: {state}")]
    Slow { seconds: u64, state: String },
    #[error("the agent in the cluster cannot be reached: {0}")]
    Connection(String),
    #[error("keys for the agent cannot be made: {0}")]
    Keys(String),
    #[error("{}", .0.error)]
    Agent(ErrorReply),
}

impl KubeError {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::Config(_) => "check it with `kubectl config view`; --context chooses another context, KUBECONFIG another file".into(),
            Self::Unreachable(_) => "check with `kubectl get pods` that the cluster answers from here".into(),
            Self::Forbidden { .. } => "ask whoever runs the cluster for the Role that `mirrord rbac` prints".into(),
            Self::Refused { help, .. } | Self::NoGuests { help, .. } => (*help).into(),
            Self::NoSuch { kind, namespace, .. } => {
                format!("`kubectl get {kind} -n {namespace}` shows what there is; -n chooses another namespace, --context another cluster")
            }
            Self::NoPod { .. } => "wait until one of its pods is ready (`kubectl get pods` shows them), or name another target".into(),
            Self::NoContainer { known, .. } => format!("it has {known}"),
            Self::HostNetwork(_) => "name a target with a network of its own".into(),
            Self::NoKind(_) => {
                format!("it is one of {}", mirrord_config::Kind::ALL.map(mirrord_config::Kind::word).join(", "))
            }
            Self::NoSession(_) => "decisions are made for sessions: start one (mirrord exec, mirrord inspect), then ask again; \
                -a names the namespace of its agents, if that is another one"
                .into(),
            Self::Start { help, .. } => help.clone(),
            Self::Slow { .. } => "raise --agent-startup-timeout, or look at it with `kubectl get events` in the agent's namespace".into(),
            Self::Connection(_) => "run the command again; it needs the right to create pods/portforward in the agent's namespace".into(),
            Self::Keys(_) => "report this".into(),
            Self::Agent(reply) => reply.help.clone(),
        }
    }

    /// For the process that asked.
    pub fn reply(&self) -> ErrorReply {
        ErrorReply { error: self.to_string(), help: self.help() }
    }

    /// What the API server, or the way to it, has to say to what we wanted.
    pub fn api(what: impl Into<String>, error: kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) if status.code == 403 && is_admission(&status.message) => {
                Self::Refused { what, help: admission_help(&status.message), message: status.message }
            }
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Self::Forbidden { what, message: status.message },
            kube::Error::Api(status) => Self::Refused { what, help: "correct that and run the command again", message: status.message },
            error => Self::Unreachable(format!("{}: {}", what, chain(&error))),
        }
    }
}

/// Forbidden not by the caller's rights but by what is asked for.
fn is_admission(message: &str) -> bool {
    message.contains("exceeded quota") || message.contains("violates PodSecurity") || message.contains("denied the request")
}

/// The next step when an admission plugin says no.
pub fn admission_help(message: &str) -> &'static str {
    if message.contains("violates PodSecurity") {
        "the agent needs rights that this namespace forbids: name another with --agent-namespace whose label \
         pod-security.kubernetes.io/enforce is `privileged`"
    } else if message.contains("exceeded quota") {
        "name another namespace with --agent-namespace, or set agent.resources in the config file to what the quota allows"
    } else {
        "a policy of the cluster forbids it: ask whoever runs it, or name another namespace with --agent-namespace"
    }
}

/// An error and what it came from: the outer one often says nothing.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, message: &str) -> KubeError {
        let status = kube::core::Status { code, message: message.into(), ..Default::default() };
        KubeError::api("create a Job in `dev`", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn rights_and_policies_are_told_apart() {
        let error = api(403, "jobs.batch is forbidden: User \"ann\" cannot create resource \"jobs\"");
        assert!(error.to_string().starts_with("you are not allowed to create a Job") && error.help().contains("mirrord rbac"), "{error}");
        let error = api(403, "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": hostPID");
        assert!(error.to_string().starts_with("the cluster refuses") && error.help().contains("--agent-namespace"), "{error}");
        assert!(api(403, "exceeded quota: q").help().contains("agent.resources"));
        assert!(api(403, "admission webhook \"x\" denied the request: no").help().contains("policy"));
        assert!(matches!(api(422, "bad"), KubeError::Refused { .. }));
    }
}
