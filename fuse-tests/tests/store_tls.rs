//! A store behind TLS whose certificate is of a private authority: every setting that AWS's and OpenSSL's tools know makes it
//! trusted, and without one, or with one that cannot be used, the error is final and says what to do.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_tests::pod::program;
use fuse_tests::s3d::{S3d, S3dOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/tls")
        .join(name)
}

/// An S3 server, and TLS in front of it.
struct Secure {
    server: S3d,
    address: SocketAddr,
    home: tempfile::TempDir,
}

impl Secure {
    async fn start() -> Secure {
        let server = S3d::start(S3dOptions::default()).await.unwrap();
        let certificate = CertificateDer::from_pem_file(fixture("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let behind = server
            .endpoint()
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    // Clients that do not trust it go away, which is what is tested.
                    let Ok(mut client) = acceptor.accept(client).await else {
                        return;
                    };
                    let Ok(mut behind) = TcpStream::connect(behind).await else {
                        return;
                    };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut behind).await;
                });
            }
        });
        Secure {
            server,
            address,
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// Creates a volume with these settings.
    async fn create(&self, volume: &str, settings: &[(&str, &Path)]) -> Output {
        let mut command = tokio::process::Command::new(program());
        let bucket = "s3://bucket/vols?path_style=true&region=us-east-1";
        command
            .args(["volume", "create", volume])
            .env("HOME", self.home.path())
            .env(
                "SAILVOL_STORE",
                format!("{bucket}&endpoint=https://{}", self.address),
            )
            .env(
                "AWS_SHARED_CREDENTIALS_FILE",
                self.server.credentials_file().unwrap(),
            )
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "*")
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("AWS_PROFILE")
            .env_remove("SSL_CERT_DIR");
        // A machine may have no authorities at all, which would be another error than those that are tested.
        command.env("SSL_CERT_FILE", fixture("server.pem"));
        for (name, value) in settings {
            command.env(name, value);
        }
        command.output().await.unwrap()
    }

    fn profile(&self, bundle: &Path) {
        let dir = self.home.path().join(".aws");
        fs::create_dir_all(&dir).unwrap();
        fs::write(
            dir.join("config"),
            format!("[default]\nca_bundle = {}\n", bundle.display()),
        )
        .unwrap();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_by_every_setting() {
    let secure = Secure::start().await;
    let ca = fixture("ca.pem");
    for (volume, variable) in [("a", "AWS_CA_BUNDLE"), ("b", "SSL_CERT_FILE")] {
        let output = secure.create(volume, &[(variable, &ca)]).await;
        assert!(output.status.success(), "{variable}: {}", said(&output));
    }
    secure.profile(&ca);
    let output = secure.create("c", &[]).await;
    assert!(output.status.success(), "ca_bundle: {}", said(&output));
    // The variable goes before the profile.
    let output = secure
        .create("d", &[("AWS_CA_BUNDLE", &fixture("server.pem"))])
        .await;
    assert!(!output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_certificate_is_named_at_once() {
    let secure = Secure::start().await;
    let begun = Instant::now();
    let output = secure.create("a", &[]).await;
    // Six attempts with their pauses would take longer than any machine's start of a program.
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    for part in [
        "certificate",
        "is not trusted",
        "AWS_CA_BUNDLE",
        "ca_bundle",
        "SSL_CERT_FILE",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("does not answer"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_cannot_be_used_is_named_with_its_setting() {
    let secure = Secure::start().await;
    let bad = secure.home.path().join("bad.pem");
    let none = secure.home.path().join("none.pem");
    fs::write(
        &bad,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let check = |output: Output, setting: &str, file: &Path| {
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in [setting, &file.display().to_string(), "cannot be used"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    };
    for file in [&bad, &none] {
        for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
            check(secure.create("a", &[(variable, file)]).await, variable, file);
        }
        secure.profile(file);
        check(
            secure.create("a", &[]).await,
            "ca_bundle of the AWS profile default",
            file,
        );
        secure.profile(&fixture("ca.pem"));
    }
}
