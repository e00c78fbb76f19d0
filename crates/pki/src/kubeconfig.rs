//! The kubeconfig file that clients are handed: one cluster, one user, one context.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Credential;

/// How the user of a kubeconfig proves who it is.
#[derive(Debug, Clone)]
pub enum KubeconfigUser {
    /// Client certificate and key, held in the file.
    Certificate(Credential),
    /// A bearer token, held in the file.
    Token(String),
    /// A file that holds certificate and key, so that a renewed one is found.
    CertificateFile(std::path::PathBuf),
}

/// Everything a kubeconfig says.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// The name of the cluster, the user and the context.
    pub name: String,
    /// `https://HOST:PORT`
    pub server: String,
    /// The cluster's authority, PEM.
    pub authority_pem: String,
    /// Who.
    pub user: KubeconfigUser,
}

impl Kubeconfig {
    /// The file's text. It holds secrets: write it with [`crate::private_file::write`].
    pub fn to_yaml(&self) -> String {
        // Texts are quoted as JSON, which is valid YAML whatever they contain.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (name, server) = (quoted(&self.name), quoted(&self.server));
        let authority = STANDARD.encode(&self.authority_pem);
        let user = match &self.user {
            KubeconfigUser::Certificate(credential) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(credential.chain_pem()),
                STANDARD.encode(credential.key().to_pem())
            ),
            KubeconfigUser::Token(token) => format!("    token: {}\n", quoted(token)),
            KubeconfigUser::CertificateFile(path) => {
                let path = quoted(&path.to_string_lossy());
                format!("    client-certificate: {path}\n    client-key: {path}\n")
            }
        };
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {authority}\nusers:\n- name: {name}\n  user:\n{user}contexts:\n- name: {name}\n  context:\n    \
             cluster: {name}\n    user: {name}\ncurrent-context: {name}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_yaml_that_clients_read() {
        let config = Kubeconfig {
            name: "knarr \"x\"".to_owned(),
            server: "https://127.0.0.1:6443".to_owned(),
            authority_pem: "A".to_owned(),
            user: KubeconfigUser::Token("secret".to_owned()),
        };
        let expected = r#"apiVersion: v1
kind: Config
clusters:
- name: "knarr \"x\""
  cluster:
    server: "https://127.0.0.1:6443"
    certificate-authority-data: QQ==
users:
- name: "knarr \"x\""
  user:
    token: "secret"
contexts:
- name: "knarr \"x\""
  context:
    cluster: "knarr \"x\""
    user: "knarr \"x\""
current-context: "knarr \"x\""
"#;
        assert_eq!(config.to_yaml(), expected);
    }
}
