//! Keys for one agent: an authority that signs one certificate for the agent and one for sessions, and is then forgotten. They travel
//! in a Secret, which RBAC guards: whoever may read it may use the agent.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};

use super::{client, error::KubeError};

/// The name in every agent's certificate: it is found by the cluster, and known by its authority.
pub const AGENT_NAME: &str = "mirrord-agent";
/// What of the Secret the agent's pod gets.
pub const AGENT_KEYS: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Contents of the Secret: file names and PEM.
pub fn make() -> Result<BTreeMap<String, String>, KubeError> {
    let failed = |error: rcgen::Error| KubeError::Keys(error.to_string());
    let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, "mirrord");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().map_err(failed)?).map_err(failed)?;
    let mut files = BTreeMap::from([("ca.crt".to_owned(), authority.pem())]);
    let purposes =
        [("tls", AGENT_NAME, ExtendedKeyUsagePurpose::ServerAuth), ("session", "mirrord-session", ExtendedKeyUsagePurpose::ClientAuth)];
    for (file, name, purpose) in purposes {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &authority).map_err(failed)?;
        files.insert(format!("{file}.crt"), certificate.pem());
        files.insert(format!("{file}.key"), key.serialize_pem());
    }
    Ok(files)
}

/// How a session meets an agent, from the Secret's contents.
pub fn session(files: &BTreeMap<String, ByteString>) -> Result<Arc<ClientConfig>, KubeError> {
    let file =
        |name: &str| files.get(name).map(|bytes| bytes.0.as_slice()).ok_or_else(|| KubeError::Keys(format!("the Secret has no {name}")));
    let bad = |error: &dyn std::fmt::Display| KubeError::Keys(error.to_string());
    let certificates = |name: &str| CertificateDer::pem_slice_iter(file(name)?).collect::<Result<Vec<_>, _>>().map_err(|error| bad(&error));
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.crt")? {
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    let key = PrivateKeyDer::from_pem_slice(file("session.key")?).map_err(|error| bad(&error))?;
    let config = ClientConfig::builder_with_provider(client::provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| bad(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("session.crt")?, key)
        .map_err(|error| bad(&error))?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_used_and_the_authoritys_key_is_nowhere() {
        let files = make().unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["ca.crt", "session.crt", "session.key", "tls.crt", "tls.key"]);
        let bytes = files.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))).collect();
        session(&bytes).unwrap();
        let without = bytes.into_iter().filter(|(name, _)| name != "session.key").collect();
        assert!(session(&without).unwrap_err().to_string().contains("session.key"));
    }
}
