//! Which certificates a store's server may have.
//!
//! Those of the system, unless a bundle is named as AWS's own tools take it: `AWS_CA_BUNDLE`, else `ca_bundle` of the profile,
//! which then stands in their place. `SSL_CERT_FILE` and `SSL_CERT_DIR`, as OpenSSL takes them, stand in the place of the
//! system's, and count beside a bundle.
//!
//! A file that is named is read here first: the HTTP client would panic at what is no certificate, and with none at all
//! every server would be a stranger.

use std::path::{Path, PathBuf};

use aws_config::profile::ProfileSet;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_types::os_shim_internal::{Env, Fs};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::store::StoreError;

/// Longest bundle, bytes: those of operating systems have a fifth of a MiB.
const BUNDLE_BYTES_MAX: u64 = 64 << 20;

const BUNDLE_VARIABLE: &str = "AWS_CA_BUNDLE";
const SYSTEM_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What the HTTP client trusts.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    bundle: Option<Vec<u8>>,
    system: bool,
}

impl Trust {
    /// As the environment and the profile say.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when a file that they name cannot be used; it names the file and who named it.
    pub(super) async fn read() -> Result<Trust, StoreError> {
        if let Some(path) = variable(SYSTEM_VARIABLES[0]) {
            certificates(&path, SYSTEM_VARIABLES[0]).await?;
        }
        let bundle = match variable(BUNDLE_VARIABLE) {
            Some(path) => Some((path, BUNDLE_VARIABLE.to_owned())),
            None => of_profile().await,
        };
        let Some((path, named_by)) = bundle else {
            return Ok(Trust {
                bundle: None,
                system: true,
            });
        };
        Ok(Trust {
            bundle: Some(certificates(&path, &named_by).await?),
            system: SYSTEM_VARIABLES.iter().any(|name| variable(name).is_some()),
        })
    }

    /// Nobody: for a store without TLS, which no certificate can keep from working.
    pub(super) fn nobody() -> Trust {
        Trust {
            bundle: None,
            system: false,
        }
    }

    /// Differs from what the SDK would do by itself.
    pub(super) fn has_bundle(&self) -> bool {
        self.bundle.is_some()
    }

    /// For the HTTP client.
    ///
    /// # Errors
    /// What it says about its settings.
    pub(super) fn context(&self) -> Result<TlsContext, StoreError> {
        let mut store = TrustStore::empty().with_native_roots(self.system);
        if let Some(bundle) = &self.bundle {
            store = store.with_pem_certificate(bundle.clone());
        }
        let built = TlsContext::builder().with_trust_store(store).build();
        built.map_err(|error| StoreError::Misconfigured {
            reason: format!("TLS cannot be set up: {error}"),
        })
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    Some(value.into())
}

/// `ca_bundle` of the profile that is in use, and who says so. A configuration that cannot be read says nothing here: the
/// credentials that are looked for in it say what is wrong.
async fn of_profile() -> Option<(PathBuf, String)> {
    let (files, fs, env) = (EnvConfigFiles::default(), Fs::real(), Env::real());
    let profiles: ProfileSet = aws_config::profile::load(&fs, &env, &files, None).await.ok()?;
    let path = profiles.get("ca_bundle").filter(|path| !path.is_empty())?;
    let named_by = format!("ca_bundle of the AWS profile {}", profiles.selected_profile());
    Some((path.into(), named_by))
}

/// The certificates in a file, as it holds them.
async fn certificates(path: &Path, named_by: &str) -> Result<Vec<u8>, StoreError> {
    let refused = |why: String| StoreError::Misconfigured {
        reason: format!(
            "{} ({named_by}) cannot be used: {why}; it has to be a file with certificates of authorities in PEM form",
            path.display()
        ),
    };
    let found = tokio::fs::metadata(path).await;
    let found = found.map_err(|error| refused(error.to_string()))?;
    if !found.is_file() {
        return Err(refused("it is no file".to_owned()));
    }
    if found.len() > BUNDLE_BYTES_MAX {
        return Err(refused(format!("it has {} bytes", found.len())));
    }
    let text = tokio::fs::read(path).await;
    let text = text.map_err(|error| refused(error.to_string()))?;
    check(&text).map_err(refused)?;
    Ok(text)
}

/// What the HTTP client takes for granted about a bundle.
fn check(pem: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("its PEM is damaged ({error})"))?;
        let number = roots.len() + 1;
        let added = roots.add(certificate);
        added.map_err(|error| format!("its certificate {number} is damaged ({error})"))?;
    }
    match roots.is_empty() {
        true => Err("it holds no certificate".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = include_str!("../../../fuse-tests/fixtures/tls/ca.pem");

    #[tokio::test]
    async fn what_is_no_bundle_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        let half = &CA[..CA.len() / 2];
        let wrong_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let wrong_base64 = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        for (text, part) in [
            ("", "no certificate"),
            ("not PEM at all\n", "no certificate"),
            (half, "damaged"),
            (wrong_der, "certificate 1 is damaged"),
            (wrong_base64, "damaged"),
            (&format!("{CA}{wrong_der}"), "certificate 2 is damaged"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = certificates(&path, "AWS_CA_BUNDLE").await.unwrap_err();
            assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
            for part in [part, "AWS_CA_BUNDLE", "bundle.pem"] {
                assert!(error.to_string().contains(part), "{part} in {error}");
            }
        }
        for missing in [dir.path().join("none"), dir.path().to_path_buf()] {
            certificates(&missing, "SSL_CERT_FILE").await.unwrap_err();
        }
        std::fs::write(&path, format!("# A comment\n{CA}\n{CA}")).unwrap();
        certificates(&path, "AWS_CA_BUNDLE").await.unwrap();
    }
}
