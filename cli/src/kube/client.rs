//! From kubeconfig, context and flags to a client of the API server.

use std::{env, path::PathBuf, sync::Arc};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use mirrord_config::kube::Kube;

use super::error::{KubeError, chain};

/// A client, and the namespace that counts where none is named.
pub async fn connect(settings: &Kube) -> Result<(Client, String), KubeError> {
    let bad = |error: &dyn std::error::Error| KubeError::Config(chain(error));
    // The client takes what the process has; it has one already if this is called twice.
    let _ = Arc::unwrap_or_clone(provider()).install_default();
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match &settings.kubeconfig {
        Some(paths) => {
            let mut merged = Kubeconfig::default();
            for path in paths.split(':').filter(|path| !path.is_empty()) {
                let read = Kubeconfig::read_from(expand(path)).map_err(|error| bad(&error))?;
                merged = merged.merge(read).map_err(|error| bad(&error))?;
            }
            Config::from_custom_kubeconfig(merged, &options).await.map_err(|error| bad(&error))?
        }
        None if settings.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| bad(&error))?,
        None => Config::infer().await.map_err(|error| bad(&error))?,
    };
    if let Some(accept) = settings.accept_invalid_certificates {
        config.accept_invalid_certs = accept;
    }
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| bad(&error))?;
    Ok((client, namespace))
}

/// Carries out what a command asks of a cluster, to its end.
pub fn run<T>(work: impl Future<Output = Result<T, KubeError>>) -> Result<T, KubeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // The futures of this crate are large.
    runtime.map_err(|error| KubeError::Unreachable(error.to_string()))?.block_on(Box::pin(work))
}

/// `~` and `$NAME` as a shell reads them, for paths that come from a file.
fn expand(path: &str) -> PathBuf {
    let home = || env::var("HOME").unwrap_or_default();
    let expand = |part: &str| match part.strip_prefix('$') {
        Some(name) => env::var(name.trim_start_matches('{').trim_end_matches('}')).unwrap_or_default(),
        None => part.to_owned(),
    };
    let parts: Vec<_> = path.split('/').enumerate().map(|(at, part)| if at == 0 && part == "~" { home() } else { expand(part) }).collect();
    PathBuf::from(parts.join("/"))
}

/// The provider of cryptography for all connections of this process.
pub fn provider() -> Arc<tokio_rustls::rustls::crypto::CryptoProvider> {
    Arc::new(tokio_rustls::rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_a_shell_would() {
        let home = env::var("HOME").unwrap_or_default();
        assert_eq!(expand("~/.kube/config"), PathBuf::from(format!("{home}/.kube/config")));
        assert_eq!(expand("/a/${HOME}x/b"), PathBuf::from("/a//b"));
        assert_eq!(expand("a~/b"), PathBuf::from("a~/b"));
    }
}
